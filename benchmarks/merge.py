"""Merging updates and applying them, against a plain copy of the same bytes.

    python benchmarks/merge.py [--parameters 10e6 148e6] [--updates 2] [--repetitions 7]

What the server does at the end of a round, by the functions it does it with: `merge` of one update from each worker,
`mean`, and `apply_update` with FedAvg and with FedAvgM. The bytes are those that go in (8 a parameter and
update, 4 a parameter for the weights); the copy is numpy's `copyto` of as many bytes into memory already in use.
Below the line, what a worker does with each client: `add_client`, with its 4 bytes of delta and 8 of sum a parameter.
All take turns in every repetition; figures are medians, the ratio being that of speeds (1: as fast as the copy).
"""

import argparse
import logging
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SERVERS: dict[str, dict[str, Any]] = {
    "FedAvg": {"_target_": "asr_fed.aggregation.server_optimizer.FedAvg"},
    "FedAvgM": {"_target_": "asr_fed.aggregation.server_optimizer.FedAvgM", "server_momentum": 0.9},
}
WEIGHT = 1.7


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds of a call and what it returned."""
    started = perf_counter()
    result = function(*arguments)
    return perf_counter() - started, result


def measure(parameters: int, count: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition by what was timed, with `count` updates of `parameters` numbers."""
    import torch
    from hydra.utils import instantiate

    from asr_fed.aggregation.server_optimizer import server_step
    from asr_fed.aggregation.update import add_client, empty, mean, merge
    from asr_fed.model.state import StateLayout

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(parameters, dtype=np.float32)
    delta = 0.01 * rng.standard_normal(parameters, dtype=np.float32)
    layout = StateLayout(("all",), (parameters,), parameters)
    optimizers = {name: instantiate(settings) for name, settings in SERVERS.items()}
    states = {name: optimizer.init(weights) for name, optimizer in optimizers.items()}
    updates = [empty(parameters) for _ in range(count)]
    source, target = (np.ones(parameters * (1 + 2 * count), dtype=np.float32) for _ in range(2))
    times: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        seconds = {"copy": timed(np.copyto, target, source)[0]}
        for update in updates:
            seconds["add_client"], _ = timed(add_client, update, delta, WEIGHT, {})
        seconds["copy of 12 bytes"], _ = timed(np.copyto, target[: 3 * parameters], source[: 3 * parameters])
        seconds["merge"], merged = timed(merge, updates)
        seconds["mean"], average = timed(mean, merged)
        for name, optimizer in optimizers.items():
            # The new weights are let go of at once, as they would be by the end of a round.
            taken = timed(server_step, optimizer, weights, average, states[name], layout)
            seconds[f"apply {name}"], (_, states[name]) = taken
        if repetition:
            for name, value in seconds.items():
                times.setdefault(name, []).append(value)
    return times


def add_rows(table: Table, parameters: int, count: int, times: dict[str, list[float]]) -> None:
    """The parts in milliseconds, then the ratios of speeds, each computed within its repetition."""

    def row(what: str, seconds: list[float], size: int, baseline: list[float]) -> None:
        ratios = [plain / own for plain, own in zip(baseline, seconds, strict=True)]
        table.add_row(
            f"{parameters / 1e6:g} M",
            what,
            f"{1000 * statistics.median(seconds):.1f}",
            f"{size / statistics.median(seconds) / 1e9:.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        )

    copy, size = times["copy"], parameters * (8 * count + 4)
    row("plain copy", copy, size, copy)
    for name in ("merge", "mean", *(f"apply {name}" for name in SERVERS)):
        row(f"  {name}", times[name], size, copy)
    for name in SERVERS:
        parts = (times["merge"], times["mean"], times[f"apply {name}"])
        row(f"merge, mean and apply, {name}", [sum(step) for step in zip(*parts, strict=True)], size, copy)
    table.add_section()
    row("plain copy, 12 bytes a parameter", times["copy of 12 bytes"], 12 * parameters, times["copy of 12 bytes"])
    row("add_client", times["add_client"], 12 * parameters, times["copy of 12 bytes"])
    table.add_section()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of merging and applying updates against a plain copy.")
    parser.add_argument("--parameters", type=float, nargs="+", default=[10e6, 148e6])
    parser.add_argument("--updates", type=int, default=2, help="one from each worker")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    table = Table(title=f"{arguments.updates} updates, one thread, {arguments.repetitions} repetitions")
    table.add_column("parameters", justify="right")
    table.add_column("what")
    for column in ("ms", "GB/s", "copy's time / its time (min-max)"):
        table.add_column(column, justify="right")
    for parameters in map(int, arguments.parameters):
        times = measure(parameters, arguments.updates, arguments.repetitions)
        add_rows(table, parameters, arguments.updates, times)
    Console().print(table)


if __name__ == "__main__":
    main()
