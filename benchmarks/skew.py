"""Idle time of two workers whose clients differ in size by 1:50.

    python benchmarks/skew.py [--clients 40] [--cohort 20] [--skew 50] [--rounds 8] [--workers 2]

Clients of noise, their speech spaced evenly on a logarithmic scale from 5 s to 250 s, are trained by the product's own
`run_federation` and `train_client`. A round draws `--cohort` of them, so that it differs from the last. The figures are
those of history.jsonl: the share of the round's exchange that a worker was not at work, and how long it took against
what the cost model had predicted. The first three rounds teach the model and are not in the summary.
"""

import argparse
import dataclasses
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic_clients import make_run

from asr_fed.runs.records import RoundRecord

UNIT = 5.0  # seconds of the smallest client
LEARNING = 3  # rounds


def regroup(run_dir: Path, sizes: list[int]) -> None:
    """Give the first client the speech of as many of the present ones as `sizes` says, and so on."""
    from asr_fed.data.partition import Client
    from asr_fed.data.partition_files import read_partition, write_partition

    partition = read_partition(run_dir / "partition")
    ends = np.cumsum(sizes)
    clients = []
    for number, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        members = partition.clients[start:end]
        train = tuple(utterance for member in members for utterance in member.train)
        clients.append(Client(f"skewed{number:03d}", train, ()))
    write_partition(dataclasses.replace(partition, clients=tuple(clients)), run_dir / "partition")


def run(run_dir: Path, workers: int) -> Sequence[RoundRecord]:
    """The history of the federation."""
    import torch

    from asr_fed.engines.open_workers import open_workers
    from asr_fed.federation.rounds import run_federation
    from asr_fed.runs.experiment import open_experiment

    experiment = open_experiment(run_dir)
    torch.set_num_threads(experiment.config.engine.server_threads)
    experiment.config.engine.workers = workers
    logging.getLogger("flwr").setLevel(logging.WARNING)

    def show(history: Sequence[RoundRecord]) -> None:
        record = history[-1]
        idle = ", ".join(f"{100 * worker.idle:.1f} %" for worker in record.workers)
        print(f"round {record.round}: {record.exchange_seconds:.1f} s, idle {idle}", flush=True)

    with open_workers(experiment) as grid:
        return run_federation(experiment, grid, show).history


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Idle time of workers whose clients differ in size.")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--cohort", type=int, default=20)
    parser.add_argument("--skew", type=float, default=50, help="largest client over smallest")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.rounds <= LEARNING:
        parser.error(f"--rounds has to be above {LEARNING}")
    sizes = [round(size) for size in np.geomspace(1, arguments.skew, arguments.clients)]
    federation = {"rounds": arguments.rounds, "local_epochs": 1, "cohort": arguments.cohort}
    federation["evaluate_every"] = arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        run_dir = make_run(Path(folder), sum(sizes), UNIT, federation, "tiny", threads=1)
        regroup(run_dir, sizes)
        history = run(run_dir, arguments.workers)
    table = Table(title=f"{arguments.cohort} of {arguments.clients} clients, 1:{max(sizes) // min(sizes)}")
    for column in ("round", "worker", "clients", "busy, s", "predicted, s", "busy / predicted", "idle, %"):
        table.add_column(column, justify="right")
    for record in history:
        for worker in sorted(record.workers, key=lambda worker: worker.node):
            busy, predicted = worker.busy_seconds, worker.predicted_seconds
            numbers = (f"{busy:.2f}", f"{predicted:.2f}", f"{busy / predicted:.2f}", f"{100 * worker.idle:.1f}")
            table.add_row(str(record.round), str(worker.node), str(worker.clients), *numbers)
    idle = [100 * worker.idle for record in history[LEARNING:] for worker in record.workers]
    console = Console()
    console.print(table)
    console.print(
        f"After round {LEARNING}: idle {statistics.mean(idle):.1f} % on average, {max(idle):.1f} % at most. "
        f"Load average {os.getloadavg()[0]:.2f}."
    )


if __name__ == "__main__":
    main()
