"""history.jsonl: what is written is read back, and so is what 0.1.0 wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr_fed.runs.records import VERSION, NodeRecord, RoundRecord, read_history, write_history


def record(number: int = 1, **changes: Any) -> RoundRecord:
    """A round that did nothing."""
    made = RoundRecord(
        round=number,
        lr=0.1,
        wer=50.0,
        cer=20.0,
        loss=3.0,
        client_wer=60.0,
        clients=2,
        examples=20,
        weight_sum=3.5,
        effective_clients=1.9,
        skipped_steps=0,
        audio_seconds=60.0,
        train_seconds=5.0,
        success=1.0,
        failures={},
        dropped=0,
        attempts=1,
        bytes_down=100,
        bytes_up=200,
        exchange_seconds=6.0,
        aggregate_seconds=0.1,
        held_out_seconds=0.2,
        round_seconds=7.0,
        best_round=number,
        workers=[NodeRecord(1, 2, 4.0, 5.0, 0.5, 0.1)],
    )
    return replace(made, **changes)


def test_rounds_are_read_back(tmp_path: Path) -> None:
    history = [record(1, failures={"é": "why"}), record(2, wer=None, cer=None, annealed_lr=0.05)]
    assert read_history(tmp_path) == [], "before the first round"
    write_history(tmp_path, history)
    assert read_history(tmp_path) == history
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["version"] for line in lines] == [VERSION] * 2
    assert lines[0]["workers"][0]["node"] == 1 and lines[1]["wer"] is None


def test_a_history_of_another_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """0.1.0 wrote neither a version nor the rate by the dev WER alone; a later one may write more."""
    old = record().to_dict()
    del old["version"], old["annealed_lr"]
    (tmp_path / "history.jsonl").write_text(json.dumps(old) + "\n" + json.dumps(old | {"new": 1}) + "\n")
    assert [each.wer for each in read_history(tmp_path)] == [50.0, 50.0]
    assert read_history(tmp_path)[0].annealed_lr is None and read_history(tmp_path)[0].version == 1


def test_a_line_without_a_number_is_named(tmp_path: Path) -> None:
    broken = record().to_dict()
    del broken["loss"]
    (tmp_path / "history.jsonl").write_text(json.dumps(broken) + "\n")
    with pytest.raises(ValueError, match="loss"):
        read_history(tmp_path)
