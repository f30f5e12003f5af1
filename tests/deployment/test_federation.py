"""A real federation on this machine: a SuperLink behind its door, TLS, keys, a silo, a virtual node and a stranger."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_fed.data.manifest import write_manifest
from asr_fed.data.partition import Partition, read_partition, write_partition
from tests.tiny import TIMED, Corpus, settings, write_experiment_file

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "asr_fed.deployment")
ROUNDS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Machine:
    """Starts commands in one folder, each with a log, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        return self.running[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def wait_for(self, name: str, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log(name):
            assert self.running[name].poll() is None and time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.rglob("*.log")))

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(20)


def processes_about(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if str(folder) in line and " Z" not in line]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for name in list(machine.running):
        machine.end(name, signal.SIGKILL)
    deadline = time.monotonic() + 15  # what they had started ends by itself
    while processes_about(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_about(tmp_path) == []


def history(run_dir: Path) -> list[dict[str, Any]]:
    rounds = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMED} for record in rounds]


@pytest.mark.timeout(280)
def test_silo_and_virtual_node_end_in_the_same_weights_as_local_workers(
    machine: Machine, corpus: Corpus, prepared: Path
) -> None:
    folder = machine.folder
    content = settings(corpus, prepared, folder / "unused")
    content["federation"]["rounds"] = ROUNDS
    del content["engine"], content["run_dir"]
    file = str(write_experiment_file(folder / "tiny.yaml", content, weighting="wer_softmax"))
    train = (sys.executable, str(REPOSITORY / "train_fed.py"), file)
    machine.run(*train, "run_dir=local")

    # One client's speech moves into a silo of its own; the others' are simulated by a virtual node.
    partition = read_partition(folder / "local" / "partition")
    own, *simulated = partition.clients
    silo = folder / "silo"
    (silo / "clips").mkdir(parents=True)
    for utterance in own.utterances:
        shutil.copy(utterance.wav, silo / "clips")
    moved = [replace(utterance, wav=f"clips/{Path(utterance.wav).name}") for utterance in own.utterances]
    write_manifest(silo / "manifest.csv", moved)
    write_partition(Partition((), (), (), (), tuple(simulated)), folder / "virtual" / "partition")

    machine.run(*COMMAND, "certificates", "certificates")
    port, control = free_port(), free_port()
    nodes = {
        own.id: {"manifest": "manifest.csv", "folder": "state"},
        "virtual": {"partition": "partition", "folder": "state", "workers": 1},
        "stranger": {"manifest": "../silo/manifest.csv", "folder": "state"},
    }
    machine.start(
        "superlink",
        *(*COMMAND, "superlink", "superlink", "--certificates", "certificates", "--host", "127.0.0.1"),
        *("--port", str(port), "--control-port", str(control)),
    )
    for name, node in nodes.items():
        place = folder / ("silo" if name == own.id else name)
        place.mkdir(exist_ok=True)
        machine.run(*COMMAND, "key", str(place / "key"))
        line = {"name": name, "superlink": f"127.0.0.1:{port}", "certificate": "../certificates/ca.crt", "key": "key"}
        (place / "node.yaml").write_text(yaml.safe_dump(line | node))
    machine.wait_for("superlink", "nodes come in")
    for place in ("silo", "virtual"):
        registered = machine.run(
            *(*COMMAND, "register", f"{place}/key.pub", place),
            *("--certificates", "certificates", "--control-port", str(control)),
        )
        assert "is admitted" in registered
    for place in ("silo", "virtual", "stranger"):
        machine.start(place, *COMMAND, "node", f"{place}/node.yaml")

    deployment = ("engine=deployment", f"engine.address=127.0.0.1:{control}", "engine.certificates=certificates")
    machine.run(*train, "run_dir=deployed", *deployment, "engine.nodes=2", "engine.wait=90")

    summaries = [json.loads((folder / run / "summary.json").read_text()) for run in ("local", "deployed")]
    for key in ("weights_sha256", "test_wer", "clients", "hours", "best_round", "rounds"):
        assert summaries[0][key] == summaries[1][key], key
    assert history(folder / "local") == history(folder / "deployed")
    assert machine.running.pop("stranger").wait(30) == 2
    assert "does not know the key" in machine.log("stranger")
    assert machine.log("silo").count("trained 1 client(s)") == ROUNDS
    assert machine.log("virtual").count("trained 4 client(s)") == ROUNDS
    server_knows = [path for path in (folder / "deployed").rglob("*") if path.is_file() and str(silo) in _text(path)]
    assert server_knows == [], "a path of the silo is on the server's side"
    for name in ("silo", "virtual", "superlink"):
        assert machine.end(name) in (143, 0), machine.log(name)


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")
