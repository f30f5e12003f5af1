"""Ctrl-C, SIGTERM and a full disk: a run ends at once, leaves no process behind, and says how to go on."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_fed.aggregation.weighting import WerSoftmax
from asr_fed.system.checkpoint import load_checkpoint
from asr_fed.training.local import ClientResult
from tests.faults import FOR_EVER
from tests.tiny import Corpus, settings, write_experiment_file
from tests.waiting import PATIENCE, wait_until

REPOSITORY = Path(__file__).parents[2]
SIZE_LIMIT = 20_000  # bytes: less than a checkpoint, more than all else that a run of these writes

# The experiment of these tests names the two classes below as `_target_`. Files in the folder PLAN rule what they do.


def plan(name: str) -> Path:
    return Path(os.environ["PLAN"]) / name


@dataclass(frozen=True)
class SlowOrFull:
    """WerSoftmax in a worker: for ever with a file `slow`; with `full`, its server's disk is, from round 2 on."""

    def __call__(self, result: ClientResult) -> float:
        plan("in_a_round").touch()
        if plan("slow").exists():
            time.sleep(FOR_EVER)
        if plan("full").exists() and plan("run/checkpoints/federation.pt").exists():
            resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))
        return WerSoftmax()(result)


class SlowAdam(torch.optim.Adam):
    """Adam in a server: a step takes for ever with a file `slow_start`."""

    def __init__(self, params: Any, lr: float = 0.001) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure: Any = None) -> Any:
        plan("in_the_warm_start").touch()
        if plan("slow_start").exists():
            time.sleep(FOR_EVER)
        return super().step(closure)


@dataclass(frozen=True)
class Desk:
    """A folder with an experiment's file; each run leads a process group, as in a terminal."""

    folder: Path

    def start(self, *arguments: str, planned: str | None = None) -> subprocess.Popen[str]:
        for name in ("slow", "slow_start", "full", "in_a_round", "in_the_warm_start"):
            (self.folder / name).unlink(missing_ok=True)
        if planned is not None:
            (self.folder / planned).touch()
        return subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.patient_train_fed", "tiny.yaml", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PLAN": str(self.folder), "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def history(self) -> list[int]:
        lines = (self.folder / "run" / "history.jsonl").read_text().splitlines()
        return [json.loads(line)["round"] for line in lines]


@pytest.fixture(scope="module")
def desk(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    content = settings(corpus, prepared, Path("run"))
    content["weighting"] = {"_target_": "tests.pipeline.test_stopping.SlowOrFull"}
    content["warm_start"] |= {"epochs": 1, "optimizer": {"_target_": "tests.pipeline.test_stopping.SlowAdam"}}
    content["federation"]["rounds"] = 2
    content["engine"]["workers"] = 1
    write_experiment_file(folder / "tiny.yaml", content, weighting="uniform")
    return Desk(folder)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: path.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[0]


def group(leader: int) -> Iterator[int]:
    """Processes of the group that are not zombies."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == leader and state != "Z":
            yield int(stat.parent.name)


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a run that has to end, with all of its processes, though what it does would take for ever."""
    try:
        output = process.communicate(timeout=PATIENCE)[0]  # ends when the last process that could write has ended
        wait_until(lambda: not list(group(process.pid)), lambda: "orphans")
        return output
    finally:
        if list(group(process.pid)):
            os.killpg(process.pid, signal.SIGKILL)


def test_stopped_in_every_way_a_run_leaves_no_process_and_goes_on(desk: Desk) -> None:
    process = desk.start(planned="slow_start")
    wait_for(desk.folder / "in_the_warm_start", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    output = ended(process)
    assert process.returncode == 130
    assert "resume=true run_dir=run" in output and "Traceback" not in output

    process = desk.start("resume=true", planned="slow")
    wait_for(desk.folder / "in_a_round", process)
    process.send_signal(signal.SIGTERM)  # as a supervisor does: to the main process
    output = ended(process)
    assert process.returncode == 143
    assert "resume=true run_dir=run" in output and "Traceback" not in output

    process = desk.start("resume=true", planned="slow")
    wait_for(desk.folder / "in_a_round", process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    while "Once more to end at once" not in (line := process.stdout.readline()):
        assert line, "it ended without a word"
    os.killpg(process.pid, signal.SIGINT)
    ended(process)
    assert process.returncode == -signal.SIGINT

    process = desk.start("resume=true", planned="full")
    output = ended(process)
    assert process.returncode == 2
    message = output[output.index("asr-fed: ") :]
    assert "no room left" in message and "federation.pt" in message and "resume=true run_dir=run" in message
    assert "Traceback" not in output
    assert load_checkpoint(desk.folder / "run" / "checkpoints" / "federation.pt")["round"] == 1
    assert desk.history() == [1]
    assert not list((desk.folder / "run").rglob(".*.[0-9]*")), "temporary files are left"

    process = desk.start("resume=true")
    output = ended(process)
    assert process.returncode == 0, output
    assert desk.history() == [1, 2]


def test_ctrl_c_while_features_are_computed(desk: Desk) -> None:
    process = desk.start(f"data.prepared={desk.folder / 'fresh'}", "run_dir=features")
    wait_for(desk.folder / "fresh" / "features", process)
    os.killpg(process.pid, signal.SIGINT)
    output = ended(process)
    assert process.returncode == 130
    assert "what was prepared is kept: give the same command again" in output
    assert not (desk.folder / "features" / "config.yaml").exists(), "it has not begun to train"


def test_a_clean_stop_that_is_slow_to_its_last_moment_has_its_status() -> None:
    """While Python takes itself apart, after it has given signals their default actions."""
    code = """
import os, signal, sys, time
from asr_fed.commands import train
from asr_fed.system.exit_status import exit_status

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)

kept, train.PATIENCE = Slow(), 1
train.stop_on_signals()
sys.exit(exit_status("program", lambda: os.kill(os.getpid(), signal.SIGTERM)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, "Stopping" in ended.stderr) == (143, True), ended.stderr
