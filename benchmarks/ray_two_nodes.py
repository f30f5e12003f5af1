"""A federation on two Ray nodes, one of which is lost in mid-round.

    python benchmarks/ray_two_nodes.py [--clients 24] [--seconds 8] [--rounds 3] [--no-room]

Starts two Ray nodes on this machine with `ray start` (the first with room for both workers, so that a lost one can be
replaced; with --no-room, for one only), runs a federation over a worker on each, and kills all processes of the second
node with SIGKILL in round 2. Prints when what happened, and whether the run ends in the same weights as one with local
workers that nothing happened to.
"""

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from synthetic_clients import make_run

from asr_fed.runs.records import RoundRecord

KILLED_IN_ROUND = 2
STORE = 200 << 20  # bytes of each node's object store


class RayNode:
    """A Ray node started by `ray start --block`, in a session of its own."""

    def __init__(self, *arguments: str, cores: int) -> None:
        ray = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if ray is None:
            raise SystemExit('Ray is not installed: pip install "asr_fed[ray]"')
        options = ["--block", "--disable-usage-stats", f"--num-cpus={cores}", f"--object-store-memory={STORE}"]
        # Any free ports, since both nodes have the address of this machine.
        options += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
        self._process = subprocess.Popen(
            [ray, "start", *options, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def processes(self) -> dict[int, str]:
        listed = subprocess.run(["ps", "-wweo", "pid=,sid=,args="], capture_output=True, text=True, check=True).stdout
        rows = (line.split(None, 2) for line in listed.splitlines())
        return {int(pid): command for pid, session, command in rows if int(session) == self._process.pid}

    def workers(self) -> int:
        return sum("RayWorker" in command for command in self.processes().values())

    def kill(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def two_nodes(cores_of_head: int) -> Iterator[tuple[str, RayNode, RayNode]]:
    """Address, head, and second node of a Ray cluster; the second has one core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    nodes = [RayNode("--head", f"--port={port}", "--include-dashboard=false", cores=cores_of_head)]
    try:
        wait_for(address)
        nodes.append(RayNode(f"--address={address}", cores=1))
        yield address, nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.kill()


def wait_for(address: str, patience: float = 60) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"the head of the Ray cluster did not come up within {patience:g} s") from None
            time.sleep(0.2)


def local_run(run_dir: Path, workers: int) -> str:
    """SHA-256 of the weights that local workers end in."""
    from asr_fed.engines.local_pool import LocalPool
    from asr_fed.engines.workers import Workers
    from asr_fed.federation.client_app import open_worker
    from asr_fed.federation.rounds import run_federation
    from asr_fed.model.state import state_sha256
    from asr_fed.runs.experiment import open_experiment

    with Workers(LocalPool(partial(open_worker, str(run_dir))), workers) as grid:
        return state_sha256(run_federation(open_experiment(run_dir), grid).weights)


def ray_run(run_dir: Path, address: str, room: int, head: RayNode, second: RayNode) -> tuple[str, list[RoundRecord]]:
    """SHA-256 of the weights and the history of a run that loses its second node; prints what happens when."""
    from asr_fed.engines.ray_pool import RayPool
    from asr_fed.engines.workers import Workers
    from asr_fed.federation.client_app import open_worker
    from asr_fed.federation.rounds import run_federation
    from asr_fed.model.state import state_sha256
    from asr_fed.runs.experiment import open_experiment

    experiment = open_experiment(run_dir)
    started = time.perf_counter()
    done: list[str] = []
    rounds: list[RoundRecord] = []

    def note(what: str) -> None:
        print(f"{time.perf_counter() - started:7.1f} s  {what}", flush=True)

    def on_client(client: str) -> None:
        done.append(client)
        if len(rounds) == KILLED_IN_ROUND - 1 and len(done) == len(experiment.partition.clients) // 4:
            note(f"{len(done)} clients of round {KILLED_IN_ROUND} are trained: all of the second node is killed")
            second.kill()

    def on_round(history: Sequence[RoundRecord]) -> None:
        rounds.append(history[-1])
        note(f"round {len(rounds)}: {history[-1].clients} clients in {history[-1].round_seconds:.1f} s")
        for reason, count in Counter(history[-1].failures.values()).items():
            note(f"{count} clients failed: {reason}")
        note(f"workers on the first node: {head.workers()}, on the second: {second.workers()}")
        done.clear()

    pool = RayPool(partial(open_worker, str(run_dir)), address)
    while pool.room() < room:
        time.sleep(0.2)
    note(f"joined {address}: room for {pool.room()} workers")
    with Workers(pool, 2, on_client) as grid:
        wait_for_actors(head, second)
        note(f"workers on the first node: {head.workers()}, on the second: {second.workers()}")
        state = run_federation(experiment, grid, on_round)
    note("the run is over")
    return state_sha256(state.weights), list(state.history)


def wait_for_actors(*nodes: RayNode) -> None:
    while sum(node.workers() for node in nodes) < 2:
        time.sleep(0.2)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="A federation on two Ray nodes that loses one of them.")
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=8, help="audio of each client")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-room", action="store_true", help="leave no room on the first node for a second worker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        federation = {"rounds": arguments.rounds}
        run_dir = make_run(Path(folder), arguments.clients, arguments.seconds, federation, "tiny", threads=1)
        import torch

        torch.set_num_threads(1)
        logging.getLogger("flwr").setLevel(logging.WARNING)
        undisturbed = local_run(run_dir, workers=2)
        for name in ("federation.pt", "federated.pt"):
            (run_dir / "checkpoints" / name).unlink()
        cores = 1 if arguments.no_room else 2
        with two_nodes(cores) as (address, head, second):
            disturbed, history = ray_run(run_dir, address, cores + 1, head, second)
    table = Table(title="Two Ray nodes, the second killed in mid-round")
    for column in ("round", "seconds", "clients", "failed"):
        table.add_column(column, justify="right")
    for record in history:
        values = (record.round, f"{record.round_seconds:.1f}", record.clients, len(record.failures))
        table.add_row(*map(str, values))
    Console().print(table)
    print(f"weights of undisturbed local workers: {undisturbed}")
    print(
        f"weights of this run:                  {disturbed}  ({'the same' if disturbed == undisturbed else 'OTHERS'})"
    )


if __name__ == "__main__":
    main()
