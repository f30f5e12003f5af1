"""A round of the default engine against the bare local-training function in a plain loop, on the same clients.

    python benchmarks/round_overhead.py [--clients 100] [--seconds 20] [--workers 1 2] [--repetitions 5]

In every repetition three things are timed in turn, all from the same weights and with the same random numbers:

- plain loop: `train_client` over all clients in one process;
- loops at once: as many such loops as there are workers, in processes of their own, each over its share of the
  clients. Two busy cores are each slower than one alone (clock, caches, memory), whatever runs on them: this shows
  by how much;
- round: `run_round` and `apply_update` (with the server optimizer).

Efficiency a core is plain loop / (workers * round), and against the loops at once their time / round. A third figure
needs no second measurement: the share of the workers' time, within the very same rounds, that went into
`train_client`. The first repetition warms everything up and is not counted.
"""

import argparse
import logging
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table
from synthetic_clients import make_run

from asr_fed.system.processes import start_worker

LR = 0.01


def plain_loop(pipe: Connection, run_dir: str, threads: int) -> None:
    """The life of a process that trains the clients it is sent, one after another, by nothing but `train_client`."""
    start_worker()
    import torch

    from asr_fed.model.recogniser import load_recogniser
    from asr_fed.model.state import read_state
    from asr_fed.runs.experiment import open_experiment, pick_device
    from asr_fed.training.local import LocalTask, train_client

    torch.set_num_threads(threads)
    experiment = open_experiment(run_dir)
    config = experiment.config
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    weights = read_state(recogniser.model)
    training = experiment.recognition(recogniser, pick_device(config.device))
    clients = {client.id: client for client in experiment.partition.clients}
    pipe.send("ready")
    while True:
        names, server_round = pipe.recv()
        for name in names:
            train_client(
                LocalTask(
                    training,
                    clients[name],
                    weights,
                    LR,
                    server_round,
                    config.seed,
                    config.federation,
                )
            )
        pipe.send("done")


@contextmanager
def loop_process(run_dir: Path, threads: int) -> Iterator[Connection]:
    """A process running `plain_loop`, ready for work."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=plain_loop, args=(there, str(run_dir), threads), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()
        yield here
    finally:
        process.terminate()
        process.join()
        here.close()


def time_loops(pipes: Sequence[Connection], names: Sequence[str], server_round: int) -> float:
    """Seconds until the last of the processes is through its share of the clients."""
    started = perf_counter()
    for first, pipe in enumerate(pipes):
        pipe.send((names[first :: len(pipes)], server_round))
    for pipe in pipes:
        pipe.recv()
    return perf_counter() - started


def measure(run_dir: Path, workers: int, threads: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition by what was timed."""
    import torch

    from asr_fed.engines.open_workers import open_workers
    from asr_fed.federation.federation import Federation
    from asr_fed.federation.rounds import apply_update, run_round
    from asr_fed.federation.state import begin
    from asr_fed.model.recogniser import load_recogniser
    from asr_fed.runs.experiment import open_experiment

    torch.set_num_threads(threads)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    experiment = open_experiment(run_dir)
    config = experiment.config
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    training = experiment.recognition(recogniser, torch.device("cpu"))
    state = begin(experiment, training)
    names = [client.id for client in experiment.partition.clients]
    config.engine.workers, config.engine.threads_per_worker = workers, threads
    timed: dict[str, list[float]] = {
        name: [] for name in ("plain loop", "loops at once", "round", "train_client", "server")
    }
    with ExitStack() as stack:
        pool_of_workers = stack.enter_context(open_workers(experiment))
        federation = Federation.open(experiment, pool_of_workers, recogniser.model)
        pipes = [stack.enter_context(loop_process(run_dir, threads)) for _ in range(workers)]
        for repetition in range(repetitions + 1):
            plain = time_loops(pipes[:1], names, repetition)
            at_once = time_loops(pipes, names, repetition) if workers > 1 else plain

            started = perf_counter()
            result = run_round(federation, state, repetition, LR)
            apply_update(federation, state, result.update)
            ended = perf_counter()

            if result.numbers["failures"]:
                raise SystemExit(f"Clients failed: {list(result.numbers['failures'].items())[:3]}")
            step = f"repetition {repetition}/{repetitions}" if repetition else "warm-up"
            times = f"plain loop {plain:.2f} s, {workers} at once {at_once:.2f} s, round {ended - started:.2f} s"
            print(f"{workers} worker(s), {step}: {times}", flush=True)
            if repetition:
                inside, asked = float(result.numbers["train_seconds"]), float(result.numbers["exchange_seconds"])
                seconds = (plain, at_once, ended - started, inside, ended - started - asked)
                for name, value in zip(timed, seconds, strict=True):
                    timed[name].append(value)
    return timed


def add_rows(table: Table, workers: int, timed: dict[str, list[float]]) -> None:
    """Times as they are, and the three efficiencies, each computed within its repetition."""
    rounds = timed["round"]

    def ratio(name: str, share: float) -> list[float]:
        return [share * value / whole for value, whole in zip(timed[name], rounds, strict=True)]

    for name in ("plain loop", "loops at once", "round", "server"):
        if name != "loops at once" or workers > 1:
            add_row(table, workers, f"{name}, s", timed[name])
    add_row(table, workers, "plain loop / (workers x round)", ratio("plain loop", 1 / workers))
    if workers > 1:
        add_row(table, workers, "loops at once / round", ratio("loops at once", 1))
    add_row(table, workers, "train_client's share of the workers' time", ratio("train_client", 1 / workers))
    table.add_section()


def add_row(table: Table, workers: int, name: str, values: list[float]) -> None:
    numbers = (statistics.median(values), min(values), max(values))
    table.add_row(str(workers), name, *(f"{number:.3f}" for number in numbers))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Wall time of a round against plain loops of train_client.")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20, help="audio of each client")
    parser.add_argument("--model", default="tiny", help="a file of hparams/model/ (tiny: 1 M parameters)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    parser.add_argument("--local-epochs", type=int, default=1, help="one is where overhead shows most")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    load = os.getloadavg()
    table = Table(title=f"{arguments.clients} clients of {arguments.seconds:g} s, {arguments.repetitions} repetitions")
    for column in ("workers", "what", "median", "min", "max"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = make_run(
            Path(folder),
            arguments.clients,
            arguments.seconds,
            {"local_epochs": arguments.local_epochs},
            arguments.model,
            arguments.threads,
        )
        for workers in arguments.workers:
            add_rows(table, workers, measure(run_dir, workers, arguments.threads, arguments.repetitions))
    Console().print(table)
    print(f"{os.cpu_count()} cores; load average {load[0]:.2f} at the start, {os.getloadavg()[0]:.2f} at the end")


if __name__ == "__main__":
    main()
