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
    """A temporary path beside `path`; it replaces `path` when the context ends without an exception.

    The content is flushed to disk before the rename: after a kill or a power failure there is either the old file or
    the new one.

    Raises NoRoom if the disk is full, UserError if writing fails for another reason. The temporary file is then
    removed, and `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if is_no_room(error) or error.errno is None:  # numpy gives no errno for an incomplete write
            raise NoRoom(f"There is no room left for {path} ({error}). The previous version is intact.") from error
        raise cannot_be_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_no_room(error: OSError) -> bool:
    """Whether a write failed because of a full disk, a full quota or a limit on file sizes."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a header and rows, which all have the same keys; whole or not at all."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def make_folder(path: Path) -> None:
    """Make the folder if it does not exist, and check that files can be created in it. Raises UserError if not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_be_written(path, error) from error


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """The error for a failed write to this file or folder."""
    if is_no_room(error):
        return NoRoom(f"There is no room left for {path}.")
    return UserError(f"{path} cannot be written: {error.strerror or error}.")


def in_words(error: OSError) -> UserError | None:
    """The same for any file or folder that the system refused; None for an error of another kind."""
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
