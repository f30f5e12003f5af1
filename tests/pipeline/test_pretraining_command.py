"""The command of a pre-training, in real processes: one table of two federations, and neither kill -9, workers nor Ray
change it."""

import csv
from pathlib import Path

import pytest

from tests.pipeline.test_train_fed import Desk
from tests.tiny import Corpus, settings, write_experiment_file


@pytest.fixture(scope="module")
def desk(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("pretraining")
    content = settings(corpus, prepared, folder / "unused")
    content["task"] = {"kind": "best_rq", "codebook_size": 12, "code_dim": 4, "mask_ms": 80}
    content["weighting"] = {"_target_": "tests.faults.Interruptible"}
    content["warm_start"]["epochs"] = 0
    content["fine_tune"] = {"epochs": 1, "lr": 0.01}
    content["federation"]["rounds"] = 2
    return Desk(folder, write_experiment_file(folder / "tiny.yaml", content, weighting="uniform"))


@pytest.mark.slow
def test_two_federations_end_in_one_table_with_the_recogniser_from_scratch(desk: Desk) -> None:
    swept = ("--multirun", "federation.clients.count=2,null", f"run_dir={desk.folder}/swept")
    completed = desk.run(str(desk.experiment), *swept)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("fine tuned against from scratch: ") == 2
    (compared,) = (desk.folder / "outputs" / "multirun").iterdir()
    rows = list(csv.DictReader((compared / "comparison.csv").open(encoding="utf-8", newline="")))
    assert len({row["run_dir"] for row in rows}) == 2
    for row in rows:
        found = desk.summary(row["run_dir"])
        assert float(row["test_wer"]) == pytest.approx(found["recognition"]["fine_tuned"]["wer"])
        assert float(row["scratch_wer"]) == pytest.approx(found["recognition"]["from_scratch"]["wer"])
        assert float(row["test_loss"]) == pytest.approx(found["test_loss"])
    table = (compared / "comparison.html").read_text(encoding="utf-8")
    assert all(f"{float(row['scratch_wer']):.2f}" in table for row in rows)


@pytest.mark.slow
def test_a_killed_run_with_two_workers_and_one_on_ray_end_as_one_with_a_single_worker(
    desk: Desk, tmp_path: Path
) -> None:
    desk.train_three_ways(tmp_path / "log", at_client=8)
    expected, others = desk.summary("straight"), [desk.summary(name) for name in ("killed", "ray")]
    for key in ("weights_sha256", "systems", "recognition", "difference"):
        assert others[0][key] == expected[key] == others[1][key], key
