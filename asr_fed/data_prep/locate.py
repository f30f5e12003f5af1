"""Where the recordings of a corpus are: the file behind a path, and the files that no row names."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from asr_fed.data.identity import on_disk
from asr_fed.data.recordings import SUFFIXES, is_shadow

SHADOW = "shadow of a file"  # ._NAME
LINK_OUT = "link out of the corpus folder"
OUTSIDE = "outside the corpus folder"


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int
    mtime_ns: int


def locate(path: str, root: str, resolve: Callable[[str], str], *, follow_links: bool) -> File | str:
    """The file of a clip, or the reason why it cannot be read.

    `path` is absolute or relative to `root`, which is resolved; `resolve` is os.path.realpath, or a cached version of
    it. With `follow_links` a link below `root` may lead anywhere; the clip's path is then the link.
    """
    if is_shadow(path):
        return SHADOW
    try:
        joined = on_disk(os.path.join(root, path))
        folder, name = os.path.split(joined)
        resolved = os.path.join(resolve(folder), name)
        if os.path.islink(resolved) or name == "..":
            resolved = os.path.realpath(resolved)
        if os.path.commonpath((root, resolved)) != root:
            plain = os.path.normpath(joined)
            if os.path.commonpath((root, plain)) != root:
                return OUTSIDE
            if not follow_links:
                return LINK_OUT
            resolved = plain
        status = os.stat(resolved)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return "missing file"
    if not stat.S_ISREG(status.st_mode):
        return "missing file"
    return File(resolved, status.st_size, status.st_mtime_ns) if status.st_size else "empty file"


def unnamed_beside(paths: Iterable[str], root: Path) -> list[str]:
    """The recordings in the folders of `paths` (not in subfolders) that are not in `paths`, relative to `root`,
    sorted."""
    named = defaultdict(set)
    for path in paths:
        folder, name = os.path.split(on_disk(os.path.join(root, path)))
        named[folder].add(name)
    found = []
    for folder, names in named.items():
        try:
            entries = [entry.name for entry in os.scandir(folder) if not entry.is_dir()]
        except (OSError, ValueError):  # its rows are reported as missing
            continue
        recordings = (name for name in entries if os.path.splitext(name)[1].lower() in SUFFIXES)
        found += [os.path.join(folder, name) for name in recordings if name not in names and not is_shadow(name)]
    return sorted(os.path.relpath(path, root) for path in found)
