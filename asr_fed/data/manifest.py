"""Speech data as plain objects: one `Utterance` a line of `manifest.csv`.

The first five columns are SpeechBrain's own convention (ID, duration, wav, spk_id, wrd), so that any
SpeechBrain recipe reads the file; the rest is optional.
"""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recorded sentence.

    `duration` is in seconds; `wav` is an absolute path (any format that soundfile reads); `text` is
    normalised; `split` is the corpus's own train/dev/test, or empty.
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


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read `manifest.csv`; audio paths that are relative are taken from the manifest's own folder.

    Raises UserError where the file is missing, lacks a required column, or holds a bad or repeated row.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no manifest at {path}. Prepare the corpus first (see data_prep/).")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: column(s) {', '.join(missing)} missing; needed are {', '.join(REQUIRED)}.")
        folder = path.parent.absolute()
        utterances, seen = [], set()
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any(row[name] in (None, "") for name in REQUIRED):
                raise UserError(f"{where}: a required column is empty ({', '.join(REQUIRED)}).")
            try:
                duration = float(row["duration"])
            except ValueError:
                raise UserError(f"{where}: duration {row['duration']!r} is not a number of seconds.") from None
            if not 0 < duration < float("inf"):
                raise UserError(f"{where}: duration {row['duration']!r} is not a positive number of seconds.")
            if row["ID"] in seen:
                raise UserError(f"{where}: the ID {row['ID']!r} occurs twice.")
            seen.add(row["ID"])
            optional = {COLUMNS[name]: row.get(name) or "" for name in COLUMNS.keys() - set(REQUIRED)}
            wav = os.path.join(folder, row["wav"])
            utterances.append(Utterance(row["ID"], duration, wav, row["spk_id"], row["wrd"], **optional))
    return utterances


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
