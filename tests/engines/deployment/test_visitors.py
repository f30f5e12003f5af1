"""What the operator of a server is told of those who come to the proxy."""

import json
from pathlib import Path

import pytest

from asr_fed.engines.deployment import visitors
from asr_fed.engines.deployment.visitors import Visitors


def write(log: Path, name: str, status: int = 200, reason: str = "", node: str = "clinic") -> None:
    entry = {"time": "", "peer": "192.0.2.9", "node": node, "path": f"/v1/fleet/{name}"}
    with log.open("a") as file:
        file.write(json.dumps(entry | {"status": status, "reason": reason}) + "\n")


def test_who_comes_and_goes_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    write(log, "activate-node", node="before")
    told = Visitors(log)
    assert list(told.news()) == []
    write(log, "activate-node")
    write(log, "push-object", 413, "a body of more than 5 bytes")
    assert list(told.news()) == [
        "clinic connected from 192.0.2.9",
        "clinic at 192.0.2.9 was turned away: a body of more than 5 bytes",
    ]
    write(log, "deactivate-node")
    assert list(told.news()) == ["clinic left"]


def test_a_stranger_who_knocks_again_and_again_is_told_once_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "access.jsonl"
    told = Visitors(log)
    for _ in range(3):
        write(log, "member", 401, "a key that is not registered", "?")
    assert list(told.news()) == ["192.0.2.9 was turned away: a key that is not registered"]
    monkeypatch.setattr(visitors, "AGAIN", 0.0)  # an hour later
    write(log, "member", 401, "a key that is not registered", "?")
    assert len(list(told.news())) == 1


def test_a_line_that_is_half_written_and_a_log_that_was_rotated(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    told = Visitors(log)
    write(log, "activate-node")
    whole = log.read_bytes()
    log.write_bytes(whole[:20])
    assert list(told.news()) == []
    log.write_bytes(whole)
    assert list(told.news()) == ["clinic connected from 192.0.2.9"]
    log.unlink()
    assert list(told.news()) == []
    write(log, "deactivate-node", node="x")
    assert list(told.news()) == ["x left"]
