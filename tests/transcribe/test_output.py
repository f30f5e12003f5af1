"""The file of transcripts: completed, never mixed, nobody else's overwritten."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from asr_fed.system.errors import UserError
from asr_fed.system.files import NoRoom
from asr_fed.transcribe.alignment import Word
from asr_fed.transcribe.output import as_json, json_lines_file
from asr_fed.transcribe.transcript import Transcript, Window

SETTINGS = {"weights_sha256": "abc", "decoder": "ctc_greedy", "window": 20.0}


def transcript(path: str) -> Transcript:
    words = (Word("ça", 0.123456, 0.5, 0.98765), Word("va", None, None, None))
    return Transcript(path, 1.0, (Window(0.0, 1.0, "ça va", words),))


def write(file: Path, *paths: str, **changes: Any) -> set[str]:
    with json_lines_file(file, SETTINGS | changes) as (done, add):
        for path in paths:
            add(transcript(path))
    return done


def test_a_line_says_all() -> None:
    line = as_json(transcript("a.wav"), SETTINGS)
    assert "ça va" in line and "\n" not in line
    assert json.loads(line) == {
        "path": "a.wav",
        "duration": 1.0,
        "text": "ça va",
        "words": [
            {"word": "ça", "start": 0.123, "end": 0.5, "score": 0.988},
            {"word": "va", "start": None, "end": None, "score": None},
        ],
        "windows": [{"start": 0.0, "end": 1.0, "text": "ça va"}],
        **SETTINGS,
    }


def test_what_is_there_is_done(tmp_path: Path) -> None:
    file = tmp_path / "new" / "out.jsonl"
    odd = os.fsdecode(b"\xe9 \r\n.wav")  # a name that is not UTF-8, with line breaks
    assert write(file, "a.wav", odd) == set()
    assert write(file, "b.wav") == {"a.wav", odd}
    assert [json.loads(line)["path"] for line in file.read_bytes().splitlines()] == ["a.wav", odd, "b.wav"]


def test_settings_of_many_digits_are_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    write(file, "a.wav", window=12.3456)
    assert write(file, "b.wav", window=12.3456) == {"a.wav"}


@pytest.mark.parametrize("left", [1, 9, 10, 50])
def test_a_torn_line_is_written_again(tmp_path: Path, left: int) -> None:
    file = tmp_path / "out.jsonl"
    write(file, "a.wav")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:left])
    assert write(file) == {"a.wav"}
    assert file.read_bytes() == whole


@pytest.mark.parametrize("change", [{"window": 10.0}, {"decoder": "beam"}, {"weights_sha256": "def"}])
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "out.jsonl"
    write(file, "a.wav")
    before = file.read_bytes()
    with pytest.raises(UserError, match="another recogniser, decoder, search or window"):
        write(file, "b.wav", **change)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"a thesis", b"a thesis\n", b'{"name": 1}\n', b"[1]\n", b"\xff\xfe\n"])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "thesis.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match="something else"):
        write(file, "a.wav")
    assert file.read_bytes() == content


def test_a_full_disk_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="goes on"), json_lines_file(tmp_path / "out.jsonl", SETTINGS):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path, "a.wav")
