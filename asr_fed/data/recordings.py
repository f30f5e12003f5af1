"""Which files are recordings, by their names."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from asr_fed.system.errors import UserError

# The last ones cannot be read, but naming them in an error is better than skipping them.
SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".sph"}
    | {".aac", ".amr", ".m4a", ".webm", ".wma"}
)


def is_shadow(path: str | Path) -> bool:
    """Whether it is a ._NAME, which macOS puts beside a file on foreign disks; it has no sound."""
    return os.path.basename(path).startswith("._")


def recordings_below(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Recordings in `folder` and its subfolders, by name. Linked folders are followed; each folder is entered once.

    Broken links are included, because they were meant to be recordings. Raises UserError if a folder cannot be read.
    """
    found, entered = [], set()
    for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in entered:  # a link to a folder above, or a second one
            subfolders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        subfolders.sort()
        paths = (Path(directory, name) for name in names if not is_shadow(name))
        found += [path for path in paths if path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink())]
    return sorted(found)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
