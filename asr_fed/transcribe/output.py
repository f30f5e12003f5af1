"""Transcripts as lines of JSON, and a file of them that the same command completes after a kill."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from asr_fed.system.errors import UserError
from asr_fed.system.files import NoRoom, cannot_be_written, is_no_room
from asr_fed.transcribe.transcript import Transcript

LINE_START = b'{"path": '


def as_json(transcript: Transcript, settings: dict[str, Any]) -> str:
    """One line; `settings` describe how the transcript was made. Times are rounded to milliseconds.

    Only file names that are not UTF-8 have characters that cannot be encoded; `backslashreplace` makes valid JSON of
    them.
    """
    windows = [asdict(window) for window in transcript.windows]
    words = [word for window in windows for word in window.pop("words")]
    record = {"path": transcript.path, "duration": transcript.duration, "text": transcript.text}
    return json.dumps(_rounded(record | {"words": words, "windows": windows} | settings), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


@contextmanager
def json_lines_file(path: Path, settings: dict[str, Any]) -> Iterator[tuple[set[str], Callable[[Transcript], None]]]:
    """The recordings that already have a line in the file, and a function that adds the line of a transcript.

    Raises UserError, and leaves the file unchanged, if it holds something else or transcripts with other settings. Also
    raises UserError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            done = _cut_to_whole_lines(file, settings, path)

            def add(transcript: Transcript) -> None:
                file.write(as_json(transcript, settings).encode(errors="backslashreplace") + b"\n")
                file.flush()

            yield done, add
    except OSError as error:
        if is_no_room(error):
            raise NoRoom(f"There is no room left for {path}. Make room; the same command then goes on.") from error
        raise cannot_be_written(path, error) from error


def _cut_to_whole_lines(file: BinaryIO, settings: dict[str, Any], path: Path) -> set[str]:
    """The paths of the recordings in `file`. An incomplete last line (after a full disk or a kill) is removed."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    try:
        if not torn.startswith(LINE_START[: len(torn)]):
            raise ValueError(torn[:20])
        records = [json.loads(line) for line in lines]
        done = {record["path"] for record in records}
        same = all(record[key] == value for record in records for key, value in _rounded(settings).items())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds something else than transcripts ({error!r}). Name another file.") from error
    if not same:
        raise UserError(
            f"{path} holds transcripts by another recogniser, decoder, search or window. Name another file."
        )
    file.truncate(sum(map(len, lines)))
    return done
