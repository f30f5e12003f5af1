"""Speech data as plain objects: one `Utterance` a line of `manifest.csv`.

The first five columns are SpeechBrain's own convention (ID, duration, wav, spk_id, wrd), so that any
SpeechBrain recipe reads the file; the rest is optional.
"""

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_fed.data.identity import identity, on_disk, refuse_look_alikes
from asr_fed.data.text_file import read_table
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing

COLUMNS = {
    "ID": "id",
    "duration": "duration",
    "wav": "wav",
    "spk_id": "speaker",
    "wrd": "text",
    "locale": "locale",
    "gender": "gender",
    "age": "age",
    "accent": "accent",
    "split": "split",
}
REQUIRED = ("ID", "duration", "wav", "spk_id", "wrd")
NAMES = ("id", "speaker", "locale", "gender", "age", "accent", "split")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recorded sentence.

    `duration` is in seconds; `wav` is an absolute path (any format that soundfile reads); `text` is
    normalised, and empty where there is no transcript; `split` is the corpus's own train/dev/test, or empty.

    Its names are always in the form that `identity` gives, and its text is composed (NFC). The path stays as it is on
    the disk.
    """

    id: str
    duration: float
    wav: str
    speaker: str
    text: str
    locale: str = ""
    gender: str = ""
    age: str = ""
    accent: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        for field in NAMES:
            given = getattr(self, field)
            if given and (name := identity(given)) != given:  # there may be millions, few of which change
                object.__setattr__(self, field, name)
        if not unicodedata.is_normalized("NFC", self.text):
            object.__setattr__(self, "text", unicodedata.normalize("NFC", self.text))


def read_manifest(path: str | Path, *, untranscribed: bool = False) -> list[Utterance]:
    """Read `manifest.csv`; audio paths that are relative are taken from the manifest's own folder.

    With `untranscribed` a row may be without a transcript (`wrd`).

    Raises UserError where the file is missing, cannot be decoded, lacks a required column, holds a bad or repeated
    row, or speakers whose names look alike.
    """
    return [utterance for utterance, _, _ in read_utterances(path, untranscribed=untranscribed)]


def read_utterances(
    path: str | Path, more: Sequence[str] = (), *, untranscribed: bool = False
) -> Iterator[tuple[Utterance, dict[str, str], str]]:
    """Like `read_manifest`, but each utterance comes with its row and its place; the columns in `more` are required,
    too."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no manifest at {path}. Prepare the corpus first (see asr_fed/data_prep/).")
    yield from parse_utterances(read_table(path, (*REQUIRED, *more)), path, untranscribed=untranscribed)


def parse_utterances(
    rows: Iterable[tuple[int, dict[str, str]]], path: Path, *, untranscribed: bool = False
) -> Iterator[tuple[Utterance, dict[str, str], str]]:
    """As `read_utterances`, of rows that have been read from `path`, each with its line."""
    folder = path.parent.absolute()
    ids: set[str] = set()
    speakers: set[str] = set()
    for line, row in rows:
        where = f"{path}, line {line}"
        try:
            duration = float(row["duration"])
        except ValueError:
            raise UserError(f"{where}: duration {row['duration']!r} is not a number of seconds.") from None
        if not 0 < duration < float("inf"):
            raise UserError(f"{where}: duration {row['duration']!r} is not a positive number of seconds.")
        optional = {COLUMNS[name]: row.get(name, "") for name in COLUMNS.keys() - set(REQUIRED)}
        wav = on_disk(os.path.join(folder, row["wav"]))
        utterance = Utterance(row["ID"], duration, wav, row["spk_id"], row["wrd"], **optional)
        if not all((row["wav"], utterance.id, utterance.speaker)):
            raise UserError(f"{where}: a required column is empty ({', '.join(REQUIRED)}).")
        if not utterance.text and not untranscribed:
            raise UserError(
                f"{where}: the transcript (wrd) is empty. Speech without transcripts is for pre-training "
                "(task.kind=best_rq), and for federation.pseudo_labels. For all else prepare without untranscribed."
            )
        if utterance.id in ids:
            raise UserError(f"{where}: the ID {utterance.id!r} occurs twice.")
        ids.add(utterance.id)
        speakers.add(utterance.speaker)
        yield utterance, row, where
    refuse_look_alikes(speakers, str(path))


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write `manifest.csv` whole or not at all (a reader never sees half a file)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for utterance in utterances:
            writer.writerow(
                [
                    f"{value:.4f}" if field == "duration" else value
                    for field in COLUMNS.values()
                    for value in [getattr(utterance, field)]
                ]
            )


def hours(utterances: Iterable[Utterance]) -> float:
    """Total audio in hours."""
    return sum(utterance.duration for utterance in utterances) / 3600
