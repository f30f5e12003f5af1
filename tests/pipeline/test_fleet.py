"""The asynchronous mode of a simulated fleet in real processes: what a run leaves, and that neither kill -9, workers
nor Ray change it."""

import csv
from pathlib import Path

import pytest

from tests.pipeline.test_train_fed import Desk
from tests.tiny import Corpus, settings, write_experiment_file


@pytest.mark.slow
def test_a_killed_run_with_two_workers_and_one_on_ray_end_as_one_with_a_single_worker(
    corpus: Corpus, prepared: Path, tmp_path: Path
) -> None:
    content = settings(corpus, prepared, tmp_path / "unused")
    content["weighting"] = {"_target_": "tests.faults.Interruptible"}
    content["warm_start"]["epochs"] = 1
    content["federation"] |= {"cohort": 4, "clients": {"dev_fraction": 0.3, "dev_min_utterances": 3}}
    content["simulation"] = {"buffer": 2, "network": "20"}
    content["evaluation"]["report_clips"] = 0
    file = write_experiment_file(tmp_path / "tiny.yaml", content, weighting="uniform", simulation="phones")
    desk = Desk(tmp_path, file)

    straight = desk.train_three_ways(tmp_path / "log", at_client=4)

    expected, summary = desk.summary("straight"), desk.summary("killed")
    assert summary["weights_sha256"] == expected["weights_sha256"] == desk.summary("ray")["weights_sha256"]
    for name in ("simulation.csv", "simulation_rounds.csv", "simulation_heard.csv"):
        expected_rows = (tmp_path / "straight" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected_rows == (tmp_path / "ray" / name).read_bytes()

    fleet = summary["simulation"]
    assert fleet == expected["simulation"] and fleet["arrived"] == 6 and fleet["asynchronous"]
    hours = sum(each["fleet_seconds"] for each in desk.history("killed")) / 3600
    assert fleet["hours"] == pytest.approx(hours) and hours > 3 / 3600
    assert "Fleet of phones on 20" in straight.stdout and "for 3 server steps" in straight.stdout
    report = (tmp_path / "straight" / "report.html").read_text(encoding="utf-8")
    assert "Time of the fleet" in report and "Who is heard" in report
    heard = list(csv.DictReader((tmp_path / "straight" / "simulation_heard.csv").open()))
    assert sum(int(row["clients"]) for row in heard if row["by"] == "device") == 5
    assert sum(float(row["counted"]) for row in heard if row["by"] == "device") - 1 < 1e-9
    assert all(row["wer"] for row in heard)
