"""Files that are whole or absent."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from asr_fed.system.errors import UserError


class NoRoom(UserError):
    """A disk or quota is full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place when the context ends without an exception.

    The content is flushed to disk before the rename: a kill or a power cut at any moment leaves the old file or the
    new one.

    Raises NoRoom where the disk is full, UserError where it cannot be written to for another reason. What had been
    written is removed then, and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if is_no_room(error) or error.errno is None:  # numpy gives no number where a write was cut short
            raise NoRoom(f"There is no room left for {path} ({error}). What was there before is whole.") from error
        raise cannot_be_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_no_room(error: OSError) -> bool:
    """Whether this failure to write means a full disk, a full quota or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A header and the rows, which all have the same keys; whole or not at all."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def make_folder(path: Path) -> None:
    """Make it where it is not there, and see that files can be made in it. Raises UserError where not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_be_written(path, error) from error


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """What to raise where writing to this file or folder failed."""
    if is_no_room(error):
        return NoRoom(f"There is no room left for {path}.")
    return UserError(f"{path} cannot be written: {error.strerror or error}.")


def in_words(error: OSError) -> UserError | None:
    """The same of any file or folder that the system did not let us use; None for an error of another kind."""
    if error.filename is None or error.errno is None:
        return None
    path = Path(os.fsdecode(error.filename))
    if is_no_room(error) or error.errno == errno.EROFS:
        return cannot_be_written(path, error)
    if error.errno in (errno.EACCES, errno.EPERM):
        unreadable = path.exists() and not os.access(path, os.R_OK)
        return UserError(f"{path} cannot be read: {error.strerror}.") if unreadable else cannot_be_written(path, error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
        return UserError(f"{path} cannot be used: {error.strerror}.")
    return None
