"""Numbers of a run in MLflow and Weights & Biases, with the real packages, offline."""

import json
from pathlib import Path

import pytest

from asr_fed.config.schema import Config
from asr_fed.reporting.tracking import open_tracking
from asr_fed.system.errors import UserError
from tests.tiny import typed_config
from tests.waiting import wait_until


def config(run_dir: Path, kind: str) -> Config:
    return typed_config({}, f"run_dir={run_dir}", f"tracking={kind}", "data.name=tiny", "seed=5")


def test_mlflow_gets_settings_and_numbers_and_a_resumed_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for step, wer in ((1, 50.0), (2, 40.0)):  # the second in a process of its own, as far as the record goes
        with open_tracking(config(run_dir, "mlflow")) as track:
            track("federation/wer", wer, step)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.run_name == "run" and run.data.params["seed"] == "5"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "federation/wer")] == [
        (1, 50.0),
        (2, 40.0),
    ]
    assert list((run_dir / "tensorboard").glob("events*"))


def test_wandb_gets_settings_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with open_tracking(config(run_dir, "wandb")) as track:
        track("warm_start/wer", 60.0, 18)
        track("federation/wer", 50.0, 1)
    (record,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process writes it, and may end after us.
    for name in (b"federation/wer", b"warm_start/step"):
        wait_until(lambda name=name: name in record.read_bytes(), record.read_bytes)  # type: ignore[misc]
    assert json.loads((run_dir / "tracking.json").read_text())["wandb"] in record.name


def test_a_tracker_that_is_not_installed_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_fed.reporting.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"), open_tracking(config(tmp_path, "wandb")):
        pass
