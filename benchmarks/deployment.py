"""Where the time of a round goes between a server and real nodes on this machine: TLS, keys, two silos.

    python benchmarks/deployment.py [--models tiny wide] [--rounds 5]

The speech is synthetic and the local work one step, so that what remains is the way there and back. Of each round after
the first: transfer (from handing out the orders to the last answer, without what the slowest node spent on its order),
start (a node's time before its workers train and after), training, and aggregation (checks, sum, server step).
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from synthetic_clients import make_run

from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.engines.deployment.credentials import make_certificates, make_node_key
from asr_fed.engines.deployment.engine import federate_in_deployment
from asr_fed.engines.deployment.operate import Operator
from asr_fed.engines.deployment.superlink import SuperLink, running
from asr_fed.runs.experiment import open_experiment

# Model groups of hparams/model, with what is changed in them. The tiny one has about 1 M parameters.
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "tiny": ("tiny", {}),
    "wide": ("tiny", {"rnn_neurons": 448, "dnn_neurons": 640, "decoder_neurons": 448}),
}


def measure(folder: Path, model: str, rounds: int) -> tuple[int, list[dict[str, float]]]:
    """Parameters, and the seconds of each round but the first, by what they went into."""
    group, changes = MODELS[model]
    federation = {"rounds": rounds, "local_steps": 1, "evaluate_every": rounds}
    federation |= {"round_timeout": 600, "client_timeout": 600}
    port, control, certificates = free_port(), free_port(), folder / "certificates"
    address = f"127.0.0.1:{control}"
    engine = {"kind": "deployment", "address": address, "certificates": str(certificates), "nodes": 2}
    run_dir = make_run(folder, 2, 2.0, federation, group, threads=1, changes={"model": changes, "engine": engine})
    make_certificates(certificates, [])
    link = SuperLink(folder / "superlink", certificates, "127.0.0.1", port, control)
    with ExitStack() as stack:
        stack.enter_context(running(link))
        for number, client in enumerate(read_partition(run_dir / "partition").clients):
            home = folder / f"node{number}"
            write_partition(Partition((), (), (), (), (client,)), home / "partition")
            key = make_node_key(home / "key")
            Operator(address, certificates).register(key, home.name, simulated=True)
            settings = {"name": home.name, "superlink": f"127.0.0.1:{port}", "partition": "partition", "workers": 1}
            settings |= {"certificate": "../certificates/ca.crt", "key": "key", "folder": "state"}
            (home / "node.yaml").write_text(yaml.safe_dump(settings))
            node = subprocess.Popen(
                [sys.executable, "-m", "asr_fed.deployment", "node", str(home / "node.yaml")],
                stdout=(home / "node.log").open("w"),
                stderr=subprocess.STDOUT,
            )
            stack.callback(end, node)
        federate_in_deployment(open_experiment(run_dir))
    history = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    return round(history[0]["bytes_down"] / 2 / 4), [split(record) for record in history[1:]]


def split(record: dict[str, Any]) -> dict[str, float]:
    slowest = max(record["workers"], key=lambda worker: worker["start_seconds"] + worker["busy_seconds"])
    start, training = slowest["start_seconds"], slowest["busy_seconds"]
    return {
        "transfer": record["exchange_seconds"] - start - training,
        "start": start,
        "training": training,
        "aggregation": record["aggregate_seconds"],
        "exchange and aggregation": record["exchange_seconds"] + record["aggregate_seconds"],
    }


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Round time of a deployment, split into its parts.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    load, started = os.getloadavg(), time.perf_counter()
    table = Table(title=f"2 nodes, {arguments.rounds - 1} rounds each; seconds, median (minimum-maximum)")
    for column in ("numbers in the state", "transfer", "start", "training", "aggregation", "exchange and aggregation"):
        table.add_column(column, justify="right")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            size, rounds = measure(Path(folder), model, arguments.rounds)
        columns = [[each[name] for each in rounds] for name in rounds[0]]
        cells = (f"{statistics.median(c):.3f} ({min(c):.3f}-{max(c):.3f})" for c in columns)
        table.add_row(f"{size:,}", *cells)
    Console().print(table)
    print(f"load average {load[0]:.2f} at the start, {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
