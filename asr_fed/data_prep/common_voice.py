"""Common Voice: any locale, any release.

    python -m asr_fed.data_prep.common_voice /corpora/cv-corpus-17.0/fr data/cv_fr/manifest.csv --language fr

A release folder holds `clips/` and tab-separated tables. The rows of train.tsv, dev.tsv and test.tsv are used with
their split; if a release has none of them, validated.tsv is used, without splits.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from asr_fed.data.manifest import Utterance
from asr_fed.data.recordings import is_shadow
from asr_fed.data.text_file import encoding_of
from asr_fed.data_prep.command import run_command
from asr_fed.data_prep.locate import unnamed_beside
from asr_fed.data_prep.prepare import Clip, Options, write_corpus
from asr_fed.data_prep.rows import read_rows
from asr_fed.system.errors import UserError

SPLITS = ("train", "dev", "test")
NEEDED = ("client_id", "path", "sentence")
GENDERS = {"male_masculine": "male", "female_feminine": "female"}  # names that changed between releases


def prepare(
    root: str, manifest: str, *, language: str = "fr", locale: str = "", **options: Unpack[Options]
) -> list[Utterance]:
    """Prepare the release at `root`: the folder with `clips/`, or its parent with a folder named `locale`.

    `language` chooses the text rules, `locale` (default: `language`) the folder, if the two differ, like sv and sv-SE.
    For `options` see `write_corpus`. Raises UserError where tables, columns or clips are not as in a Common Voice
    release, or are of another language.
    """
    locale = locale or language
    release = next((path for path in (Path(root), Path(root) / locale) if (path / "clips").is_dir()), None)
    if release is None:
        raise UserError(f"{root} is no Common Voice release: it holds neither clips/ nor {locale}/clips/.")
    tables = {split: release / f"{split}.tsv" for split in SPLITS if (release / f"{split}.tsv").is_file()}
    if not tables and (release / "validated.tsv").is_file():
        tables = {"": release / "validated.tsv"}
    if not tables:
        raise UserError(f"{release} holds neither train.tsv, dev.tsv, test.tsv nor validated.tsv.")
    bad: dict[str, list[str]] = {}
    clips = [clip for split, table in tables.items() for clip in _clips(table, split, locale, bad)]
    # Clips must lie in clips/ itself, which may be a link to another disk.
    folder = release / "clips"
    unnamed = unnamed_beside(_named(release), folder)
    return write_corpus(clips, folder, manifest, language=language, bad_rows=bad, unnamed=unnamed, **options)


def _named(release: Path) -> Iterator[str]:
    """The clips that any table of the release names, also those in validated, invalidated and other."""
    for table in release.glob("*.tsv"):
        if is_shadow(table):
            continue
        with table.open(encoding=encoding_of(table), errors="replace") as file:
            header = next(file, "").rstrip("\n").split("\t")
            if "path" in header:
                column = header.index("path")
                rows = (line.rstrip("\n").split("\t", column + 1) for line in file)
                yield from (_file_name(fields[column]) for fields in rows if len(fields) > column)


def _file_name(path: str) -> str:
    """The first releases have names without suffix."""
    name = path.strip()
    return name if Path(name).suffix or not name else f"{name}.mp3"


def _clips(table: Path, split: str, locale: str, bad: dict[str, list[str]]) -> Iterator[Clip]:
    for line, row in read_rows(table, NEEDED, bad):
        stated = row.get("locale", "").strip()
        if stated and stated.lower().split("-")[0] != locale.lower().split("-")[0]:
            raise UserError(
                f"{table}, line {line}: the clip is of locale {stated!r}, not {locale!r}. "
                f"Give language={stated.split('-')[0]}, or locale={stated} to use {locale} text rules on it."
            )
        name = _file_name(row["path"])
        gender = row.get("gender", "").strip()
        yield Clip(
            id=Path(name).stem,
            path=name,
            speaker=row["client_id"],
            sentence=row["sentence"],
            locale=stated or locale,
            gender=GENDERS.get(gender, gender),
            age=row.get("age", "").strip(),
            accent=(row.get("accents") or row.get("accent") or "").strip(),
            split=split,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m asr_fed.data_prep.common_voice", description="Prepare Common Voice.")
    parser.add_argument("root", help="the release folder with clips/, or its parent")
    parser.add_argument("manifest", help="the manifest.csv to write")
    parser.add_argument("--language", default="fr", help="text rules, and the locale (default fr)")
    parser.add_argument("--locale", default="", help="the release's locale, where not the language")
    return run_command(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
