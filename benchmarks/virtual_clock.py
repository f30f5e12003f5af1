"""What the accounting of a simulated fleet costs in a round, beside the training of that round.

    python benchmarks/virtual_clock.py [--clients 10000] [--cohorts 10 100 1000] [--rounds 20]

`plan` is deciding who arrives, `write` the rows of the round's two files; CPU milliseconds a round, medians. `of a
step` is both over the CPU time of a single optimizer step of the smallest model for each client of the cohort: a round
makes many steps for each, so the share of a round is smaller still.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from asr_fed.config.simulation import Late, MachineConfig, SimulationConfig
from asr_fed.federation.sampling import sample_cohort
from asr_fed.simulation.buffered import plan_buffers
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.record import append_times
from asr_fed.simulation.timetable import Timetable, plan_cohort

PHONE = MachineConfig(parameters=952894, step_seconds=0.018, train_seconds=0.0079, decode_seconds=0.0019)
STEP = PHONE.step_seconds + 10 * PHONE.train_seconds  # of four clips of 2.5 s
MODES: dict[str, dict[str, Any]] = {
    "all wait": {},
    "partial work": {"late": Late.partial, "tau": 6.0},
    "availability": {"availability": "nights"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--cohorts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    works = {f"client_{number:06d}": Work(10 + number % 20, 40.0, 5.0) for number in range(chosen.clients)}
    table = Table("mode", "cohort", "plan, ms", "write, ms", "of a step", title=f"{chosen.clients} clients")
    for name, settings in MODES.items():
        for cohort in chosen.cohorts:
            clock = clock_of(**settings)
            table.add_row(name, str(cohort), *cells(cohort, *rounds(clock, works, cohort, chosen.rounds)))
    for cohort in chosen.cohorts:
        steps = plan_buffers(clock_of(), works, cohort, max(1, cohort // 2), seed=7)
        plans, writes = timed(lambda _, steps=steps: next(steps), chosen.rounds)  # type: ignore[misc]
        table.add_row("asynchronous", str(cohort), *cells(max(1, cohort // 2), plans, writes))
    Console().print(table)


def clock_of(**settings: Any) -> Clock:
    simulation = SimulationConfig(reference=PHONE, **settings)
    return Clock(simulation, Fleet.read(simulation, seed=7), PHONE.parameters, 4 * 952894, 8 * 952894)


def rounds(clock: Clock, works: dict[str, Work], cohort: int, count: int) -> tuple[list[float], list[float]]:
    def plan(server_round: int) -> Timetable:
        def choose(there: Any, size: int, draw: int) -> list[str]:
            return sample_cohort(there, size, 7, server_round, draw)

        return plan_cohort(clock, server_round, 0.0, works, cohort, cohort, choose)

    return timed(plan, count)


def timed(plan: Callable[[int], Timetable], count: int) -> tuple[list[float], list[float]]:
    """CPU seconds of planning and of writing each round, after one that does not count."""
    plans, writes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count + 1):
            begin = process_time()
            made = plan(number + 1)
            planned = process_time()
            append_times(Path(folder), made.clients, made.round)
            plans.append(planned - begin)
            writes.append(process_time() - planned)
    return list(islice(plans, 1, None)), list(islice(writes, 1, None))


def cells(clients: int, plans: list[float], writes: list[float]) -> list[str]:
    share = (median(plans) + median(writes)) / (clients * STEP)
    return [f"{1000 * median(plans):.2f}", f"{1000 * median(writes):.2f}", f"{share:.2%}"]


if __name__ == "__main__":
    main()
