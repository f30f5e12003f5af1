"""The recordings that a command line names: files, folders and lists of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from asr_fed.data.identity import on_disk
from asr_fed.data.text_file import read_lines
from asr_fed.system.errors import UserError

SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"}  # what counts as a recording in a folder


def find_recordings(named: Iterable[Path], listed_in: Path | None = None) -> list[Path]:
    """Each recording once, in the order given; those of a folder and its subfolders by name.

    Args:
        listed_in: a text file with a path a line, relative to where the command is given.

    Raises UserError where there is none at all, or no list.
    """
    named = list(named)
    if listed_in is not None:
        named += [Path(on_disk(line)) for line in read_lines(listed_in)]
    recordings = list(dict.fromkeys(recording for path in named for recording in _recordings(path)))
    if not recordings:
        what = f"{', '.join(map(str, named))}: " if named else ""
        raise UserError(f"{what}there is nothing to transcribe. Name recordings, folders of them or a --list.")
    return recordings


def _recordings(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    else:
        yield path
