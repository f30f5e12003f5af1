"""Files that are whole or absent."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        os.replace(temporary, path)
    except OSError as error:
        if is_no_room(error) or error.errno is None:  # numpy gives no number where a write was cut short
            raise NoRoom(f"There is no room left for {path} ({error}). What was there before is whole.") from error
        raise UserError(f"{path} cannot be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_no_room(error: OSError) -> bool:
    """Whether this failure to write means a full disk, a full quota or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
