"""LibriSpeech: any of its subsets, with files in subset/speaker/chapter/*.flac and *.trans.txt.

python -m asr_fed.data_prep.librispeech /corpora/LibriSpeech libri/manifest.csv --subsets dev-clean test-other
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

from asr_fed.data.manifest import Utterance
from asr_fed.data.recordings import is_shadow
from asr_fed.data.text_file import read_text
from asr_fed.data_prep.command import run_command
from asr_fed.data_prep.prepare import Clip, Options, write_corpus
from asr_fed.data_prep.rows import BAD_ENCODING, BAD_FIELDS, NO_TRANSCRIPT
from asr_fed.system.errors import UserError

SPLITS = ("train", "dev", "test")
GENDERS = {"F": "female", "M": "male"}


def prepare(root: str, manifest: str, *, subsets: Sequence[str] = (), **options: Unpack[Options]) -> list[Utterance]:
    """Prepare `subsets` (default: all that are there) of the corpus at `root`, LibriSpeech/ or its parent.

    A subset's name up to the first hyphen gives the split: train-clean-100 is train. For `options` see
    `write_corpus`. Raises UserError where a subset is not there.
    """
    folder = Path(root) / "LibriSpeech" if (Path(root) / "LibriSpeech").is_dir() else Path(root)
    there = sorted(path.name for path in folder.glob("*-*") if path.is_dir())
    absent = [name for name in subsets if name not in there]
    if absent or not there:
        raise UserError(
            f"{folder} does not hold {', '.join(absent) or 'any LibriSpeech subset'}; "
            f"there is {', '.join(there) or 'nothing like train-clean-100'}."
        )
    genders = _genders(folder / "SPEAKERS.TXT")
    bad: dict[str, list[str]] = {}
    clips = [clip for name in subsets or there for clip in _clips(folder, name, genders, bad)]
    return write_corpus(clips, folder, manifest, language="en", bad_rows=bad, **options)


def _genders(path: Path) -> dict[str, str]:
    """Gender by reader; lines are "14   | F | train-clean-360  | 25.03 | Kristin LeMoine"."""
    if not path.is_file():
        return {}
    lines = read_text(path, errors="replace").split("\n")
    fields = [[field.strip() for field in line.split("|")] for line in lines if not line.startswith(";")]
    return {reader: GENDERS.get(sex, "") for reader, sex, *_ in (row for row in fields if len(row) > 1)}


def _numbered(paths: Iterable[Path]) -> Iterator[tuple[Path, int, str]]:
    for path in paths:
        for number, line in enumerate(read_text(path, errors="replace").split("\n"), start=1):
            yield path, number, line


def _clips(folder: Path, subset: str, genders: dict[str, str], bad: dict[str, list[str]]) -> Iterator[Clip]:
    split = subset.split("-")[0]
    for chapter in sorted(path for path in (folder / subset).glob("*/*") if path.is_dir()):
        stated = set()
        transcripts = sorted(path for path in chapter.glob("*.trans.txt") if not is_shadow(path))
        for transcript, number, line in _numbered(transcripts):
            name, _, sentence = line.strip().partition(" ")
            if not name:
                continue
            stated.add(name)
            if not sentence or "\ufffd" in line:
                reason = BAD_ENCODING if sentence else BAD_FIELDS
                bad.setdefault(reason, []).append(f"{transcript.name}:{number}")
                continue
            reader = chapter.parent.name
            yield Clip(
                id=name,
                path=str((chapter / f"{name}.flac").relative_to(folder)),
                speaker=reader,
                sentence=sentence,
                locale="en",
                gender=genders.get(reader, ""),
                split=split if split in SPLITS else "",
            )
        recordings = [path.stem for path in chapter.glob("*.flac") if not is_shadow(path)]
        if untold := sorted(set(recordings) - stated):
            bad.setdefault(NO_TRANSCRIPT, []).extend(untold)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m asr_fed.data_prep.librispeech", description="Prepare LibriSpeech.")
    parser.add_argument("root", help="the folder LibriSpeech/, or its parent")
    parser.add_argument("manifest", help="the manifest.csv to write")
    parser.add_argument("--subsets", nargs="+", default=[], help="such as dev-clean (default: all)")
    return run_command(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
