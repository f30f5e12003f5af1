"""The recordings that a command line names: files, folders and lists of them."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from asr_fed.data.identity import on_disk
from asr_fed.data.recordings import is_shadow, recordings_below
from asr_fed.data.text_file import read_lines
from asr_fed.system.errors import UserError


def find_recordings(named: Iterable[Path], listed_in: Path | None = None) -> list[Path]:
    """Each recording once, in the given order; recordings of a folder and its subfolders (also linked ones) by name.

    Args:
        listed_in: a text file with one path per line, relative to the working directory.

    Raises UserError if there is no recording, no such list, or if a folder cannot be read.
    """
    named = list(named)
    if listed_in is not None:
        named += [Path(on_disk(line)) for line in read_lines(listed_in) if not is_shadow(line)]
    found = [recordings_below(path) if path.is_dir() else [path] for path in named]
    recordings = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    if not recordings:
        what = f"{', '.join(map(str, named))}: " if named else ""
        raise UserError(f"{what}there is nothing to transcribe. Name recordings, folders of them or a --list.")
    return recordings
