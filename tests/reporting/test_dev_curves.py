"""WER on the way: federation and pooled training on common axes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.reporting.dev_curves import Run, curve_rows, dev_curves, points
from asr_fed.runs.records import read_epochs, write_epochs, write_history
from asr_fed.training.central import EpochReport
from tests.runs.test_records import record

EPOCHS = [
    EpochReport(number, 2.0, 0.1, 30.0 / number if number % 2 == 0 else None, 30.0, 0.1, 7) for number in (1, 2, 3, 4)
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Four rounds, each over half of the clients' two hours, and four epochs of which every second was evaluated."""
    (tmp_path / "summary.json").write_text(json.dumps({"hours": 2.0, "test_wer": 9.0, "test_cer": 1.0}))
    spent = {"audio_seconds": 3600.0, "round_seconds": 10.0, "bytes_up": 2 * 10**6, "bytes_down": 10**6}
    write_history(tmp_path, [record(number, **spent, wer=40.0 / number, cer=1.0) for number in (1, 2, 3, 4)])
    write_epochs(tmp_path, "central", EPOCHS)
    return tmp_path


def test_epochs_are_read_back(run_dir: Path) -> None:
    assert read_epochs(run_dir, "central") == EPOCHS and read_epochs(run_dir, "warm_start") == []


def test_a_pass_is_as_much_audio_as_the_clients_have(run_dir: Path) -> None:
    run = Run.read("this", run_dir)
    by_round, by_pass, by_second, by_byte = (points(run, number) for number in range(4))
    wers = [40.0, 20.0, 40.0 / 3, 10.0]
    assert by_round == (list(zip([1, 2, 3, 4], wers, strict=True)), [(2, 15.0), (4, 7.5)])
    assert by_pass == (list(zip([0.5, 1, 1.5, 2], wers, strict=True)), [(2, 15.0), (4, 7.5)])
    assert by_second == (list(zip([10, 20, 30, 40], wers, strict=True)), [])
    assert by_byte == (list(zip([3, 6, 9, 12], wers, strict=True)), [])


def test_both_are_in_one_picture_and_pooled_training_is_dashed(run_dir: Path) -> None:
    figure = dev_curves([("this", run_dir)], "weighting")
    assert figure is not None
    styles = [{line.get_label(): line.get_linestyle() for line in axes.get_lines()} for axes in figure.axes]
    assert styles[0] == styles[1] == {"this": "-", "this, pooled": "--"} and styles[2] == styles[3] == {"this": "-"}


def test_a_run_with_a_virtual_clock_has_an_axis_more(run_dir: Path) -> None:
    write_history(run_dir, [record(number, wer=9.0, cer=1.0, fleet_seconds=1800.0) for number in (1, 2)])
    assert points(Run.read("this", run_dir), 4) == ([(0.5, 9.0), (1.0, 9.0)], [])
    figure = dev_curves([("this", run_dir)])
    assert figure is not None and [axes.get_xlabel() for axes in figure.axes][-1] == "hours of the fleet"


def test_a_file_has_the_points_of_the_picture(run_dir: Path) -> None:
    rows = curve_rows([("this", run_dir)])
    assert [(row["curve"], row["round"]) for row in rows] == [
        *(("federation", number) for number in (1, 2, 3, 4)),
        *(("pooled", number) for number in (2, 4)),
    ]
    second = {"run": "this", "curve": "federation", "round": 2, "passes": 1.0, "seconds": 20.0, "mb": 6.0}
    assert rows[1] == second | {"fleet_hours": None, "dev_wer": 20.0, "dev_loss": None}
    assert (rows[4]["passes"], rows[4]["seconds"], rows[4]["dev_wer"]) == (2.0, None, 15.0)
    rounds = [record(number, wer=9.0, cer=1.0, fleet_seconds=1800.0) for number in (1, 2)]
    write_history(run_dir, [replace(rounds[0], wer=None), rounds[1]])
    (first, *_) = curve_rows([("this", run_dir)])
    assert (first["round"], first["fleet_hours"]) == (2, 1.0), "the time of a round that was not evaluated counts"


def test_a_run_with_epochs_alone_has_a_picture_and_one_with_nothing_has_none(run_dir: Path) -> None:
    (run_dir / "history.jsonl").unlink()
    figure = dev_curves([("this", run_dir)])
    assert figure is not None and [len(axes.get_lines()) for axes in figure.axes] == [1, 1, 0, 0]
    (run_dir / "central.jsonl").unlink()
    assert dev_curves([("this", run_dir)]) is None
