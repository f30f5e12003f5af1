"""Peak memory of the server and of each worker, for cohorts of growing size.

    python benchmarks/memory.py [--cohorts 20 200 2000] [--seconds 2] [--workers 2] [--rounds 1]

Every cohort is a federation of its own, of exactly that many clients with one step each, run by the product's own
`run_federation` in a fresh tree of processes. The figure is the peak of resident memory (VmHWM, hence Linux), which
counts the mapped pages of the feature cache too. Flat means that a larger cohort needs no more of it.
"""

import argparse
import logging
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from synthetic_clients import make_run


@dataclass(frozen=True)
class Peak:
    """Megabytes of 1024**2 bytes; `seconds` is the wall time of rounds, start of the workers included."""

    server: float
    workers: list[float]
    seconds: float


def peak_mb(process: int | str) -> float:
    """Highest resident memory of a process so far. Unlike getrusage's, it starts at 0 when a process starts."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{process}/status has no VmHWM")


def run(run_dir: Path, workers: int) -> Peak:
    """Run the federation in this process, which is the server, and ask all its processes for their peak."""
    import torch

    from asr_fed.engines.open_workers import open_workers
    from asr_fed.federation.rounds import run_federation
    from asr_fed.runs.experiment import open_experiment

    started = time.perf_counter()
    experiment = open_experiment(run_dir)
    torch.set_num_threads(experiment.config.engine.server_threads)
    experiment.config.engine.workers = workers
    logging.getLogger("flwr").setLevel(logging.WARNING)
    settings, cohort = experiment.config.federation, len(experiment.partition.clients)
    with Progress(TextColumn("cohort of {task.total}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bars:
        bar = bars.add_task("", total=cohort * settings.rounds)
        with open_workers(experiment, on_client=lambda client: bars.advance(bar)) as grid:
            state = run_federation(experiment, grid)
            children = sorted(active_children(), key=lambda child: child.name)
            peak = Peak(peak_mb("self"), [peak_mb(child.pid or 0) for child in children], time.perf_counter() - started)
    failed = sum(len(record.failures) for record in state.history)
    if failed:
        raise SystemExit(f"{failed} clients failed: {state.history[0].failures}")
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Peak memory of server and workers by size of the cohort.")
    parser.add_argument("--cohorts", type=int, nargs="+", default=[20, 200, 2000])
    parser.add_argument("--seconds", type=float, default=2, help="audio of each client")
    parser.add_argument("--model", default="tiny", help="a file of hparams/model/")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        parser.error("this reads /proc, which only Linux has")
    peaks = {}
    for cohort in arguments.cohorts:
        with tempfile.TemporaryDirectory() as folder:
            federation = {"rounds": arguments.rounds, "local_steps": 1}
            run_dir = make_run(Path(folder), cohort, arguments.seconds, federation, arguments.model, threads=1)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                peaks[cohort] = fresh.submit(run, run_dir, arguments.workers).result()

    table = Table(title="Peak resident memory, MB")
    columns = ["cohort", "server", *(f"worker {number}" for number in range(1, arguments.workers + 1)), "seconds"]
    for column in columns:
        table.add_column(column, justify="right")
    for cohort, peak in peaks.items():
        table.add_row(str(cohort), *(f"{mb:.0f}" for mb in (peak.server, *peak.workers)), f"{peak.seconds:.1f}")
    small, large = peaks[arguments.cohorts[0]], peaks[arguments.cohorts[-1]]
    ratios = [large.server / small.server, *(b / a for a, b in zip(small.workers, large.workers, strict=True))]
    table.add_section()
    table.add_row(f"{arguments.cohorts[-1]} / {arguments.cohorts[0]}", *(f"{ratio:.3f}" for ratio in ratios), "")
    Console().print(table)


if __name__ == "__main__":
    main()
