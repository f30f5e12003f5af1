"""A federation of real processes on one machine, as tests set it up, kill parts of it and clear it away."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from asr_fed.data.manifest import write_manifest
from asr_fed.data.partition import Client, Partition
from asr_fed.data.partition_files import read_partition, write_partition
from tests.tiny import TIMED
from tests.waiting import PATIENCE, wait_until

REPOSITORY = Path(__file__).parents[3]
TIMEOUTS = (f"federation.round_timeout={3 * PATIENCE}", f"federation.client_timeout={PATIENCE}")
LENIENT = {"utterances": 1, "seconds": 0, "steps": 1, "batch": 1}  # tiny clients are few utterances
USUAL = 0o022  # umask of a user who has not thought of it
COMMAND = (sys.executable, "-m", "asr_fed.deployment")


class Machine:
    """Starts commands in one folder, each with a log, and ends what is left of them."""

    def __init__(self, folder: Path, experiment: Path) -> None:
        self.folder, self.experiment = folder, experiment
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.port, self.control_port = free_port(), free_port()

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, umask=USUAL
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=USUAL,
            )
        return self.running[name]

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE)

    def clear(self) -> None:
        """End everything, and see that nothing of it is left."""
        for name in list(self.running):
            self.end(name, signal.SIGKILL)
        wait_until(lambda: not self.processes(), self.processes)  # what they had started ends by itself

    def processes(self, words: str = "") -> list[int]:
        """Ids of living processes whose command line names our folder, and `words`."""
        found = subprocess.run(["ps", "-ww", "-eo", "pid,stat,args"], capture_output=True, text=True).stdout
        lines = [line for line in found.splitlines() if str(self.folder) in line and words in line]
        return [int(line.split()[0]) for line in lines if "Z" not in line.split()[1]]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.rglob("*.log")))

    def wait_for(self, name: str, text: str) -> None:
        wait_until(lambda: text in self.log(name) or self.running[name].poll() is not None, self.logs)
        assert text in self.log(name), self.logs()

    def train_command(self, run_dir: str, *overrides: str) -> tuple[str, ...]:
        return (
            sys.executable,
            str(REPOSITORY / "train_fed.py"),
            str(self.experiment),
            f"run_dir={run_dir}",
            *overrides,
        )

    def deployed_command(self, run_dir: str, nodes: int, *overrides: str) -> tuple[str, ...]:
        address = f"engine.address=127.0.0.1:{self.control_port}"
        engine = ("engine=deployment", address, "engine.certificates=certificates", f"engine.nodes={nodes}")
        return self.train_command(run_dir, *engine, f"engine.wait={PATIENCE}", *TIMEOUTS, *overrides)

    def start_superlink(self) -> None:
        if not (self.folder / "certificates").exists():
            self.run(*COMMAND, "certificates", "certificates")
        ports = ("--port", str(self.port), "--control-port", str(self.control_port))
        (self.folder / "superlink.log").unlink(missing_ok=True)
        self.start(
            "superlink",
            *(*COMMAND, "superlink", "superlink", "--certificates", "certificates", "--host", "127.0.0.1", *ports),
        )
        self.wait_for("superlink", "nodes come in")

    def describe_node(self, place: str, name: str, **settings: Any) -> None:
        """Its folder, key and node.yaml."""
        (self.folder / place).mkdir(exist_ok=True)
        self.run(*COMMAND, "key", f"{place}/key")
        line = {"name": name, "superlink": f"127.0.0.1:{self.port}", "certificate": "../certificates/ca.crt"}
        (self.folder / place / "node.yaml").write_text(
            yaml.safe_dump(line | {"key": "key", "folder": "state", "policy": LENIENT} | settings)
        )

    def register(self, place: str) -> str:
        control = ("--certificates", "certificates", "--control-port", str(self.control_port))
        settings = yaml.safe_load((self.folder / place / "node.yaml").read_text())
        virtual = ("--clients", "100", "--simulated") if "partition" in settings else ()
        return self.run(*COMMAND, "register", f"{place}/key.pub", settings["name"], *virtual, *control)

    def start_node(self, place: str) -> None:
        self.start(place, *COMMAND, "node", f"{place}/node.yaml")

    def make_silo(self, place: str, client: Client) -> None:
        """A silo with the client's speech in its own folder, and nothing else."""
        (self.folder / place / "clips").mkdir(parents=True)
        for utterance in client.utterances:
            shutil.copy(utterance.wav, self.folder / place / "clips")
        moved = [replace(utterance, wav=f"clips/{Path(utterance.wav).name}") for utterance in client.utterances]
        write_manifest(self.folder / place / "manifest.csv", moved)
        self.describe_node(place, client.id, manifest="manifest.csv")

    def make_virtual_node(self, place: str, clients: tuple[Client, ...], workers: int = 1) -> None:
        write_partition(Partition((), (), (), (), clients), self.folder / place / "partition")
        self.describe_node(place, place, partition="partition", workers=workers)

    def open_to_others(self, *places: str) -> list[str]:
        """Files there that others than their owner may read."""
        files = [path for place in places for path in (self.folder / place).rglob("*") if path.is_file()]
        return [str(path) for path in files if path.stat().st_mode & 0o077]

    def clients(self, run_dir: str) -> tuple[Client, ...]:
        return read_partition(self.folder / run_dir / "partition").clients

    def summary(self, run_dir: str) -> Mapping[str, Any]:
        return json.loads((self.folder / run_dir / "summary.json").read_text())

    def history(self, run_dir: str) -> list[dict[str, Any]]:
        """Without what measures time or size."""
        return [{key: value for key, value in each.items() if key not in TIMED} for each in self._rounds(run_dir)]

    def exchanged(self, run_dir: str) -> dict[str, int]:
        """Bytes of all orders and of all answers of a run."""
        rounds = self._rounds(run_dir)
        return {key: sum(each[key] for each in rounds) for key in ("bytes_down", "bytes_up")}

    def _rounds(self, run_dir: str) -> list[dict[str, Any]]:
        path = self.folder / run_dir / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
