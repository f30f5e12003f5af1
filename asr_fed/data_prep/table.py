"""Your own recordings: a CSV or TSV file with a header and one row per recording.

    python -m asr_fed.data_prep.table recordings/table.csv data/mine/manifest.csv --language it

The columns path, speaker and text (under these or other names) are required; id, split, gender, age and accent are
optional. Paths are relative to the table's folder and stay inside it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from asr_fed.data.manifest import Utterance
from asr_fed.data_prep.command import run_command
from asr_fed.data_prep.locate import unnamed_beside
from asr_fed.data_prep.prepare import Clip, Options, write_corpus
from asr_fed.data_prep.rows import read_rows
from asr_fed.system.errors import UserError

SPLITS = {"": "", "train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def prepare(
    root: str,
    manifest: str,
    *,
    language: str = "fr",
    path_column: str = "path",
    speaker_column: str = "speaker",
    text_column: str = "text",
    **options: Unpack[Options],
) -> list[Utterance]:
    """Prepare the recordings listed in the table at `root`; if a row has no id, its path is the id.

    A .tsv or .tab file is separated by tabs, without quotation. Any other file is separated by commas or, if its header
    has no comma, by semicolons, with the usual CSV quotation. For `options` see `write_corpus`. Raises UserError where
    the table is missing, lacks a column, or holds an unknown split.
    """
    table = Path(root)
    bad: dict[str, list[str]] = {}
    clips = list(_clips(table, (path_column, speaker_column, text_column), language, bad))
    unnamed = unnamed_beside((clip.path for clip in clips), table.parent)
    return write_corpus(clips, table.parent, manifest, language=language, bad_rows=bad, unnamed=unnamed, **options)


def _clips(table: Path, needed: tuple[str, str, str], language: str, bad: dict[str, list[str]]) -> Iterator[Clip]:
    tabs = table.suffix.lower() in (".tsv", ".tab")
    delimiter = "\t" if tabs else _delimiter(table)
    path_column, speaker_column, text_column = needed
    for line, row in read_rows(table, needed, bad, delimiter=delimiter, quoted=not tabs):
        split = row.get("split", "").strip().lower()
        if split not in SPLITS:
            raise UserError(f"{table}, line {line}: split {split!r} is none of train, dev, test, or empty.")
        path = row[path_column].strip()
        yield Clip(
            id=row.get("id", "").strip() or path,
            path=path,
            speaker=row[speaker_column],
            sentence=row[text_column],
            locale=language,
            gender=row.get("gender", "").strip(),
            age=row.get("age", "").strip(),
            accent=row.get("accent", "").strip(),
            split=SPLITS[split],
        )


def _delimiter(table: Path) -> str:
    if not table.is_file():
        return ","  # read_rows reports the error
    with table.open("rb") as file:
        header = file.readline()
    return ";" if b";" in header and b"," not in header else ","


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m asr_fed.data_prep.table", description="Prepare your own recordings.")
    parser.add_argument("root", help="the table, a .csv or .tsv file")
    parser.add_argument("manifest", help="the manifest.csv to write")
    parser.add_argument("--language", default="fr", help="text rules (default fr)")
    for name in ("path", "speaker", "text"):
        parser.add_argument(f"--{name}-column", default=name, help=f"name of the column (default {name})")
    return run_command(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
