"""What the accounting of a simulated fleet costs in a round, beside the training of that round.

    python benchmarks/virtual_clock.py [--clients 10000] [--cohorts 10 100 1000] [--rounds 20]

`plan` is deciding who arrives, `write` the rows of the round's two files; CPU milliseconds a round, medians. `of a
round` is both over the CPU time of the cohort's training in that round, an epoch of 45 s of speech each, by what a step
of the demo's model takes on this machine now. Oort has heard of every client, so that it compares all. The carbon
account and who is heard are made once, at the end of a run.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from asr_fed.commands.measure import composed
from asr_fed.config.simulation import Late, MachineConfig, SimulationConfig
from asr_fed.federation.sampling import sample_cohort
from asr_fed.simulation.buffered import plan_buffers
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.oort import Memory, choose_by_utility
from asr_fed.simulation.record import append_times
from asr_fed.simulation.reference import measure_machine
from asr_fed.simulation.timetable import Timetable, plan_cohort

WORK = Work(steps=18, trained_s=45.0, decoded_s=5.0)  # batches of four clips of 2.5 s
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
    works = {f"client_{number:06d}": WORK for number in range(chosen.clients)}
    torch.set_num_threads(1)
    machine = measure_machine(composed("hparams/demo_fr.yaml", []), torch.device("cpu"))
    client = WORK.steps * machine.step_seconds + WORK.trained_s * machine.train_seconds
    client += WORK.decoded_s * machine.decode_seconds
    title = f"{chosen.clients} clients, {client:.2f} CPU seconds each in a round"
    table = Table("mode", "cohort", "plan, ms", "write, ms", "of a round", title=title)

    def row(mode: str, cohort: int, clients: int, plans: list[float], writes: list[float]) -> None:
        plan, write = median(plans), median(writes)
        share = (plan + write) / (clients * client)
        table.add_row(mode, str(cohort), f"{1000 * plan:.2f}", f"{1000 * write:.2f}", f"{share:.3%}")

    for name, settings in MODES.items():
        for cohort in chosen.cohorts:
            row(name, cohort, cohort, *rounds(clock_of(machine, **settings), works, cohort, chosen.rounds))
    for cohort in chosen.cohorts:
        row("Oort", cohort, cohort, *rounds_of_oort(clock_of(machine), works, cohort, chosen.rounds))
    for cohort in chosen.cohorts:
        buffer = max(1, cohort // 2)
        steps = plan_buffers(clock_of(machine), works, cohort, buffer, seed=7)
        row("asynchronous", cohort, buffer, *timed(lambda _, steps=steps: next(steps), chosen.rounds))  # type: ignore[misc]
    Console().print(table)


def clock_of(machine: MachineConfig, **settings: Any) -> Clock:
    simulation, size = SimulationConfig(reference=machine, **settings), 4 * machine.parameters
    return Clock(simulation, Fleet.read(simulation, seed=7), machine.parameters, size, size)


def rounds(clock: Clock, works: dict[str, Work], cohort: int, count: int) -> tuple[list[float], list[float]]:
    def plan(server_round: int) -> Timetable:
        def choose(there: Any, size: int, draw: int) -> list[str]:
            return sample_cohort(there, size, 7, server_round, draw)

        return plan_cohort(clock, server_round, 0.0, works, cohort, cohort, choose)

    return timed(plan, count)


def rounds_of_oort(clock: Clock, works: dict[str, Work], cohort: int, count: int) -> tuple[list[float], list[float]]:
    seconds = {name: clock.course(name, work).total_s for name, work in works.items()}
    examples = dict.fromkeys(works, 18)
    memory = Memory()
    memory.add(1, list(works), 1.0)

    def plan(server_round: int) -> Timetable:
        def choose(there: Any, size: int, draw: int) -> list[str]:
            return choose_by_utility(
                there,
                size,
                memory=memory,
                seconds=seconds,
                examples=examples,
                settings=clock.settings.oort,
                seed=7,
                server_round=server_round + 1,
                draw=draw,
            )

        return plan_cohort(clock, server_round + 1, 0.0, works, cohort, cohort, choose)

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


if __name__ == "__main__":
    main()
