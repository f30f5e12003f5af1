"""A sweep: several runs by one command, none in the way of another, and one table to compare them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asr_fed.commands.sweep import Sweep
from asr_fed.reporting.compare import describe_run
from asr_fed.runs.summary import RunSummary
from tests.tiny import Corpus, settings, write_experiment_file

REPOSITORY = Path(__file__).parents[2]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "train_fed.py"), "tiny.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside hparams/, with an experiment of one round whose run_dir is the time of day."""
    folder = tmp_path_factory.mktemp("sweep")
    content = settings(corpus, prepared, Path("out/${now:%Y%m%d-%H%M%S}"))
    content["warm_start"]["epochs"], content["federation"]["rounds"], content["engine"]["workers"] = 1, 1, 1
    write_experiment_file(folder / "tiny.yaml", content)
    return folder


def test_a_sweep_ends_with_one_table_of_what_was_reached_and_what_failed(folder: Path) -> None:
    sweep = ["weighting=num_examples,loss_softmax", "federation.cohort=3,99", "seed=8"]
    completed = command(folder, "--multirun", *sweep)
    assert completed.returncode == 2, completed.stderr
    assert "run 1 of the sweep failed: federation.cohort=99" in completed.stderr
    assert "Traceback" not in completed.stderr

    (compared,) = (folder / "outputs" / "multirun").iterdir()
    with (compared / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["overrides"] for row in rows] == [
        f"weighting={weighting} federation.cohort={cohort} seed=8"
        for weighting in ("num_examples", "loss_softmax")
        for cohort in (3, 99)
    ]
    assert len({row["run_dir"] for row in rows}) == 4
    for row in rows[::2]:
        summary = json.loads((folder / row["run_dir"] / "summary.json").read_text())
        (last,) = [json.loads(line) for line in (folder / row["run_dir"] / "history.jsonl").read_text().splitlines()]
        for key in ("warm_start_wer", "test_wer", "test_cer", "best_round", "rounds", "clients", "seconds"):
            assert float(row[key]) == pytest.approx(summary[key])
        assert float(row["audio_hours"]) == pytest.approx(last["audio_seconds"] / 3600)
        assert float(row["mb_up"]) == pytest.approx(last["bytes_up"] / 1e6)
        assert float(row["mb_down"]) == pytest.approx(last["bytes_down"] / 1e6)
        assert not row["failed"]
    for row in rows[1::2]:
        assert "federation.cohort=99" in row["failed"] and not row["test_wer"]

    table = (compared / "comparison.md").read_text(encoding="utf-8")
    printed = completed.stdout[completed.stdout.index("weighting, cohort") :]
    for text in (printed, table):
        assert all(row["run_dir"] in text and row["overrides"].removesuffix(" seed=8") in text for row in rows)
        assert "seed=8" not in text, "all runs have it in common"
        assert f"{float(rows[0]['test_wer']):.2f}" in text and "num_examples, 3" in text
    assert [line.partition(" |")[0] for line in table.splitlines()[2:6]] == [
        f"| {weighting}, {cohort}" for weighting in ("num_examples", "loss_softmax") for cohort in (3, 99)
    ]


def test_a_mistake_in_one_run_of_a_sweep_is_found_before_the_first(folder: Path) -> None:
    before = sorted(path.name for path in (folder / "out").glob("*"))
    completed = command(folder, "--multirun", "weighting=num_examples,wer_softmix")
    assert completed.returncode == 2
    assert "wer_softmix" in completed.stderr and "Traceback" not in completed.stderr
    assert sorted(path.name for path in (folder / "out").glob("*")) == before


def test_help_of_an_experiment_of_ones_own_lists_our_groups(folder: Path) -> None:
    completed = command(folder, "--help")
    assert completed.returncode == 0
    assert "weighting: loss_softmax, num_examples, uniform, wer_shrunk, wer_softmax" in completed.stdout


def test_a_centralised_run_has_no_rounds_to_add_up(tmp_path: Path) -> None:
    summary = RunSummary(test_wer=5.0, test_cer=2.0, mode="central", seconds=2.0)
    described = describe_run(["mode=central"], str(tmp_path), summary)
    assert described["test_wer"] == 5.0
    assert described["mb_up"] is None and described["audio_hours"] is None and described["failed"] is None


def test_a_comparison_that_cannot_be_made_is_an_error_and_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text("{")
    record = describe_run(["seed=1"], str(tmp_path), RunSummary(test_wer=5.0, test_cer=2.0))
    (tmp_path / "0.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as ended:
        Sweep().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert ended.value.code == 2
    assert "summary.json cannot be read" in capsys.readouterr().err
