"""The command itself, in real processes: what a run leaves behind, and that neither kills nor workers change it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from asr_fed.config.schema import Config
from asr_fed.data.manifest import read_manifest
from asr_fed.data.partition_files import read_partition
from asr_fed.model.recogniser import load_recogniser
from asr_fed.model.state import layout, read_state, state_sha256
from asr_fed.reporting.evaluation_files import read_evaluation
from tests.tiny import TIMED, Corpus, settings, write_experiment_file
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
HISTORY = {
    *("round", "wer", "cer", "loss", "lr", "clients", "weight_sum", "effective_clients", "train_seconds"),
    *("round_seconds", "bytes_down", "bytes_up", "failures"),
}
SUMMARY = {
    *("test_wer", "test_cer", "warm_start_wer", "best_round", "rounds", "clients", "hours", "seconds"),
    *("peak_rss_mb", "weights_sha256", "versions", "git_commit"),
}


@dataclass(frozen=True)
class Desk:
    """A folder to work in, with the experiment's file; every run starts a new process there."""

    folder: Path
    experiment: Path
    program: Path = REPOSITORY / "train_fed.py"

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.program), *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
        )

    def train(self, run_dir: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.experiment), f"run_dir={self.folder / run_dir}", *arguments, **environment)

    def train_three_ways(self, log: Path, at_client: int) -> subprocess.CompletedProcess[str]:
        """`straight` with one worker, which is returned; `killed` with two, after so many clients, and resumed;
        `ray`.

        Clients have to be weighted by tests.faults.Interruptible, and the first round alone has to be whole by then.
        """
        straight = self.train("straight", "engine.workers=1")
        assert straight.returncode == 0, straight.stderr
        fault = {"FAULT_SIGNAL": "SIGKILL", "FAULT_LOG": str(log), "FAULT_AT_CLIENT": str(at_client)}
        killed = self.train("killed", "engine.workers=2", **fault)
        assert killed.returncode == -signal.SIGKILL and [each["round"] for each in self.history("killed")] == [1]
        resumed = self.train("killed", "resume=true", "engine.workers=2")
        assert resumed.returncode == 0, resumed.stderr
        with_ray = self.train("ray", "engine=ray", "engine.workers=2")
        assert with_ray.returncode == 0, with_ray.stderr
        return straight

    def summary(self, run_dir: str) -> dict[str, Any]:
        return json.loads((self.folder / run_dir / "summary.json").read_text())

    def history(self, run_dir: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / run_dir / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def desk(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    content = settings(corpus, prepared, folder / "unused")
    content["weighting"] = {"_target_": "tests.faults.Interruptible"}
    content["warm_start"]["optimizer"] = {"_target_": "tests.faults.InterruptibleAdam"}
    content["run_dir"] = f"{folder}/auto/${{now:%Y%m%d-%H%M%S}}"
    content["federation"] |= {"cohort": 4, "clients": {"dev_fraction": 0.3, "dev_min_utterances": 3}}
    content |= {"personalise": True, "personalisation": {"epochs": 1}}
    return Desk(folder, write_experiment_file(folder / "tiny.yaml", content, weighting="uniform"))


@pytest.fixture(scope="module")
def finished(desk: Desk) -> subprocess.CompletedProcess[str]:
    """The run that all others are compared with, in the folder `straight`."""
    completed = desk.train("straight")
    assert completed.returncode == 0, completed.stderr
    return completed


def test_the_run_directory_keeps_its_contract(desk: Desk, finished: subprocess.CompletedProcess[str]) -> None:
    run_dir = desk.folder / "straight"
    history, summary = desk.history("straight"), desk.summary("straight")
    assert [record["round"] for record in history] == [1, 2, 3]
    for record in history:
        assert record.keys() >= HISTORY
        assert record["clients"] == 4 and record["failures"] == {}
        assert 4 <= record["weight_sum"] <= 4 * np.e and 1 <= record["effective_clients"] <= 4.0001
        assert 0 <= record["wer"] <= 300 and record["round_seconds"] > 0
    assert history[0]["lr"] == 0.1
    assert summary.keys() >= SUMMARY
    assert (summary["rounds"], summary["clients"]) == (3, 5)
    assert 0 <= summary["best_round"] <= 3
    assert summary["versions"]["flwr"] == "1.41.0"
    assert summary["peak_rss_mb"] > 50 and summary["seconds"] > 1
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(run_dir / "config.yaml"))
    assert config.federation.rounds == 3 and config.server._target_.endswith("FedAvgM")
    assert "${" not in (run_dir / "config.yaml").read_text()
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert f"{summary['test_wer']:.2f}" in report
    assert "://" not in report, "the page would need a network"
    assert summary["command"].startswith("python train_fed.py ") and "tiny.yaml" in summary["command"]
    assert list((run_dir / "tensorboard").glob("events*"))
    assert {path.name for path in (run_dir / "checkpoints").glob("*.pt")} >= {"warm_start.pt", "federated.pt"}
    assert not list(run_dir.rglob(".*.[0-9]*")), "temporary files are left"


def test_what_was_reported_is_what_the_files_hold(desk: Desk, finished: subprocess.CompletedProcess[str]) -> None:
    run_dir, summary = desk.folder / "straight", desk.summary("straight")
    recogniser = load_recogniser(run_dir / "checkpoints" / "federated.pt")
    state = read_state(recogniser.model)
    assert state_sha256(state) == summary["weights_sha256"]
    warm_start = read_state(load_recogniser(run_dir / "checkpoints" / "warm_start.pt").model)
    assert (summary["best_round"] > 0) == (state_sha256(warm_start) != summary["weights_sha256"])
    proto = (run_dir / "tokenizer.model").read_bytes()
    assert hashlib.sha256(proto).hexdigest() == recogniser.tokenizer.sha256 == summary["tokenizer_sha256"]
    length = layout(recogniser.model).length
    for record in desk.history("straight"):  # a message and an update for each of two workers, not for each client
        assert 2 * 4 * length <= record["bytes_down"] <= 2 * (4 * length + 400)
        assert 2 * 3 * length <= record["bytes_up"] <= 2 * (5.1 * length + 400)  # sums are packed
    partition = read_partition(run_dir / "partition")
    assert (run_dir / "partition" / "clients.png").read_bytes().startswith(b"\x89PNG")
    for name in ("warm_start", "federated"):
        evaluation = read_evaluation(run_dir / "evaluation" / name)
        assert [each.utterance.id for each in evaluation.scored] == [utterance.id for utterance in partition.test]
        assert evaluation.wer == summary["systems"][name]["wer"]
    gains = summary["personalisation"]
    assert gains["clients"] == 5 and gains["words"] > 0 and gains["failures"] == {}
    assert f"{gains['wer_after']:.2f} after" in finished.stdout
    hours = sum(utterance.duration for client in partition.clients for utterance in client.train) / 3600
    assert summary["hours"] == pytest.approx(hours)


def test_the_terminal_shows_one_line_a_round_and_a_table(
    desk: Desk, finished: subprocess.CompletedProcess[str]
) -> None:
    lines = finished.stdout.splitlines()
    for number in (1, 2, 3):
        assert sum(line.startswith(f"round {number:3d}") for line in lines) == 1
    table = finished.stdout[finished.stdout.index("unseen test speakers") :]
    assert "warm start" in table and "federated" in table
    assert f"{desk.summary('straight')['test_wer']:.2f}" in table
    assert "Traceback" not in finished.stderr


def test_a_tenth_of_broken_clips_is_dropped_and_counted(
    corpus: Corpus, prepared: Path, finished: subprocess.CompletedProcess[str]
) -> None:
    assert len(read_manifest(prepared / "manifest.csv")) == corpus.good
    dropped = json.loads((prepared / "preparation.json").read_text())["dropped"]
    assert dropped["broken file"]["clips"] == corpus.broken > 0
    assert "broken file" in finished.stdout


def test_one_worker_ends_in_the_same_weights_as_two(desk: Desk, finished: subprocess.CompletedProcess[str]) -> None:
    completed = desk.train("one_worker", "engine.workers=1")
    assert completed.returncode == 0, completed.stderr
    assert same_result(desk, "one_worker")

    # A kill may also come after the last round's checkpoint, but before what is written from it.
    run_dir = desk.folder / "one_worker"
    whole = (run_dir / "history.jsonl").read_text()
    (run_dir / "history.jsonl").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    for name in ("summary.json", "report.html", "checkpoints/federated.pt", "checkpoints/personalisation.json"):
        (run_dir / name).unlink()
    completed = desk.train("one_worker", "resume=true", "engine.workers=2")
    assert completed.returncode == 0, completed.stderr
    assert (run_dir / "history.jsonl").read_text() == whole
    assert same_result(desk, "one_worker")


def test_ray_ends_in_the_same_weights_as_worker_processes(
    desk: Desk, finished: subprocess.CompletedProcess[str]
) -> None:
    completed = desk.train("ray", "engine=ray", "engine.workers=2")
    assert completed.returncode == 0, completed.stderr
    assert same_result(desk, "ray")


def same_result(desk: Desk, run_dir: str) -> bool:
    """The same bits, by way of the same rounds: all that does not measure time or size."""
    own, straight = (
        [{key: value for key, value in record.items() if key not in TIMED} for record in desk.history(name)]
        for name in (run_dir, "straight")
    )
    assert own == straight
    for key in ("weights_sha256", "personalisation"):
        assert desk.summary(run_dir)[key] == desk.summary("straight")[key], key
    gains = (desk.folder / name / "personalisation.csv" for name in (run_dir, "straight"))
    assert len({path.read_text() for path in gains}) == 1
    return True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_killed_in_the_warm_start_and_in_mid_round_and_stopped_by_hand_it_ends_in_the_same_weights(
    desk: Desk, finished: subprocess.CompletedProcess[str]
) -> None:
    run_dir, log = desk.folder / "killed", desk.folder / "clients.log"

    completed = desk.train("killed", FAULT_SIGNAL="SIGKILL", FAULT_AT_STEP="3")
    assert completed.returncode == -signal.SIGKILL
    assert (run_dir / "checkpoints" / "warm_start_training.pt").is_file(), "it was to die in the second epoch"
    assert not (run_dir / "checkpoints" / "warm_start.pt").exists()

    # The warm start is finished; its first round of four clients is whole, of its second two are trained.
    fault = {"FAULT_SIGNAL": "SIGKILL", "FAULT_LOG": str(log), "FAULT_AT_CLIENT": "6"}
    completed = desk.train("killed", "resume=true", **fault)
    assert completed.returncode == -signal.SIGKILL
    workers = {int(line) for line in log.read_text().split()}
    assert len(workers) == 2
    wait_until(lambda: not any(map(alive, workers)), lambda: "workers outlive their server")
    assert [record["round"] for record in desk.history("killed")] == [1]
    assert not (run_dir / "summary.json").exists()

    log.unlink()  # Ctrl-C in what is left: of round 2 all four, of round 3 one
    fault |= {"FAULT_SIGNAL": "SIGINT", "FAULT_AT_CLIENT": "5"}
    patient = replace(desk, program=REPOSITORY / "tests" / "pipeline" / "patient_train_fed.py")
    completed = patient.train("killed", "resume=true", PYTHONPATH=str(REPOSITORY), **fault)
    assert completed.returncode == 130, completed.stderr
    assert "resume=true" in completed.stderr and "Traceback" not in completed.stderr
    assert [record["round"] for record in desk.history("killed")] == [1, 2]

    completed = desk.train("killed", "resume=true")
    assert completed.returncode == 0, completed.stderr
    assert same_result(desk, "killed")
    assert completed.stdout.count("round   3") == 1


def test_a_used_run_directory_is_respected(desk: Desk, finished: subprocess.CompletedProcess[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (desk.folder / "straight").rglob("*") if path.is_file()}
    again = desk.train("straight")
    assert again.returncode == 2
    assert "resume=true" in again.stderr and "Traceback" not in again.stderr
    other = desk.train("straight", "resume=true", "federation.lr=0.2")
    assert other.returncode == 2
    assert "federation.lr" in other.stderr
    after = {path: path.stat().st_mtime_ns for path in (desk.folder / "straight").rglob("*") if path.is_file()}
    assert after == before


def test_a_corpus_of_which_30_percent_is_broken_stops_the_run(desk: Desk, corpus: Corpus) -> None:
    prepared = desk.folder / "prepared_broken"
    completed = desk.train("broken", f"data.root={corpus.broken_table}", f"data.prepared={prepared}")
    assert completed.returncode == 2
    message = completed.stderr[completed.stderr.index("asr-fed:") :]
    assert "70.0%" in message and "broken file 27" in message and "clips/broken0.wav" in message
    assert "Traceback" not in completed.stderr
    assert not (prepared / "manifest.csv").exists()
    assert not (desk.folder / "broken" / "summary.json").exists()


def test_a_mistake_in_the_config_ends_in_2_before_any_work(desk: Desk) -> None:
    completed = desk.train("mistake", "federation.local_epoch=2")
    assert completed.returncode == 2
    assert "federation.local_epoch'" in completed.stderr and "'federation.local_epochs'" in completed.stderr
    completed = desk.train("mistake", "federation.rounds=many")
    assert completed.returncode == 2
    assert "federation.rounds" in completed.stderr
    assert not (desk.folder / "mistake").exists()


def test_help_and_the_resolved_config_are_shown(desk: Desk) -> None:
    usage = desk.run("--help")
    assert usage.returncode == 0 and "demo_fr.yaml" in usage.stdout and "weighting=" in usage.stdout
    keys = desk.run(str(desk.experiment), "--help")
    assert keys.returncode == 0 and "local_epochs" in keys.stdout
    assert "loss_softmax" in desk.run("hparams/an4.yaml", "--help").stdout
    config = desk.run(str(desk.experiment), "--cfg", "job", "server=fed_yogi", "seed=4321")
    assert config.returncode == 0 and "FedYogi" in config.stdout and "4321" in config.stdout
    assert desk.run().returncode == 2


def test_several_runs_one_after_another_each_have_their_own_directory(
    desk: Desk, corpus: Corpus, prepared: Path, finished: subprocess.CompletedProcess[str]
) -> None:
    """Without a run_dir of their own: the time of day tells them apart, as in the experiments that come with us."""
    content = settings(corpus, prepared, Path("auto/${now:%Y%m%d-%H%M%S}"))
    content["warm_start"]["epochs"], content["federation"]["rounds"], content["engine"]["workers"] = 1, 1, 1
    experiment = write_experiment_file(desk.folder / "short.yaml", content)
    before = {path.name for path in desk.folder.iterdir()}
    completed = desk.run(str(experiment), "--multirun", "weighting=num_examples,loss_softmax")
    assert completed.returncode == 0, completed.stderr
    run_dirs = sorted((desk.folder / "auto").iterdir())
    weightings = [OmegaConf.load(run_dir / "config.yaml").weighting._target_ for run_dir in run_dirs]
    assert [name.rsplit(".", 1)[-1] for name in weightings] == ["NumExamples", "LossSoftmax"]
    histories = [desk.history(f"auto/{run_dir.name}") for run_dir in run_dirs]
    clients = read_partition(run_dirs[0] / "partition").clients
    assert histories[0][0]["weight_sum"] == sum(len(client.train) for client in clients) > 30
    # Each is exp(reference - loss), near 1: one of five clients weighs nothing like its number of examples.
    assert 0 < histories[1][0]["weight_sum"] < 15
    assert all((run_dir / "summary.json").is_file() for run_dir in run_dirs)
    assert {path.name for path in desk.folder.iterdir()} - before <= {"auto", "outputs"}


def test_the_centralised_reference_alone(desk: Desk, finished: subprocess.CompletedProcess[str]) -> None:
    completed = desk.train("central", "mode=central", "central.epochs=2", "personalise=false")
    assert completed.returncode == 0, completed.stderr
    summary = desk.summary("central")
    assert summary["mode"] == "central" and summary["systems"].keys() == {"central"}
    assert summary["weights_sha256"] != desk.summary("straight")["weights_sha256"]
    assert not (desk.folder / "central" / "checkpoints" / "federated.pt").exists()
