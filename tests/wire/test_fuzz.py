"""The one command that sends malformed messages, with a few of them."""

import re

import pytest

from benchmarks import fuzz


def test_five_hundred_malformed_messages_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--objects", "500", "--seed", "4"])
    assert fuzz.main() == 0, capsys.readouterr().err[-2000:]
    told = capsys.readouterr().out
    for kind in ("order", "query", "reply", "gains", "report", "error"):
        found = re.search(rf"(\d+) {kind} refused", told)
        assert found is not None and int(found[1]) > 50
    assert "500 with changed bytes were refused" in told


def test_an_exception_of_another_kind_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--objects", "50"])
    monkeypatch.setattr("asr_fed.wire.inflate._check", lambda *_: None)  # as it was before sizes and kinds were checked
    monkeypatch.setattr("asr_fed.wire.inflate.Refused", RuntimeError)
    assert fuzz.main() == 1 and "(seed 1)" in capsys.readouterr().out
