"""Which files are recordings, by their names."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from asr_fed.system.errors import UserError

# The last are recordings too, though of formats that cannot be read: better named than passed over.
SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".sph"}
    | {".aac", ".amr", ".m4a", ".webm", ".wma"}
)


def is_shadow(path: str | Path) -> bool:
    """Whether it is what macOS puts beside a file on a disk of another kind: ._NAME, with no sound in it."""
    return os.path.basename(path).startswith("._")


def recordings_below(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Those of `folder` and its subfolders, linked ones too, by name; each folder is entered once.

    Links that lead nowhere are among them: they were meant. Raises UserError where a folder cannot be read.
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
