"""Rounds of 4,000 registered clients with next to no local work: our engines against Flower's own simulation.

    python benchmarks/scale.py [--cohorts 100 1000] [--parameters 1 10] [--engines local ray flower]

A client's work is a constant: what is timed is everything else, from drawing the cohort to the new global weights. Two
workers (Flower: two Ray actors, one message a client) with one thread each. Every case runs in a fresh tree of
processes; the first of its rounds warms up and is not counted, unless it is the only one. Memory is the peak of the
whole tree, pages that processes share counted once (PSS, read from /proc: Linux only). A case ends when it takes
longer than --seconds or more memory than --gigabytes: the table says so, and shows what was seen by then.
Flower's server holds one set of weights of each client, so 1,000 clients of 10 M parameters (40 GB and more) are left
out for it, unless asked for by --all.
"""

import argparse
import contextlib
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

REGISTERED, WORKERS = 4000, 2
DELTA = 0.001
LARGEST_FLOWER = 10**9  # cohort x parameters
ENGINES = ("local", "ray", "flower")


@dataclass(frozen=True)
class Case:
    engine: str
    cohort: int
    millions: int


@dataclass(frozen=True)
class Outcome:
    """`rounds` are seconds; `ended` says why a case did not run to its end, or nothing."""

    rounds: list[float]
    peak_mb: float
    ended: str

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.rounds[1:] or self.rounds) if self.rounds else None


def open_constant(
    length: int, worker: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]
) -> Callable[[Any], Any]:
    """A worker (see LocalPool) whose clients all yield the same delta at once."""
    from flwr.app import Context, RecordDict

    from asr_fed.federation.client_app import Contribution, Shape, build_client_app
    from asr_fed.wire.messages import TOTALS, ClientSize, Report

    clients = {f"client{number:04d}": ClientSize(20, 60.0, 0.0) for number in range(REGISTERED)}
    report = Report(f"worker {worker + 1}", own=False, setup=setup().sha256, clients=clients)
    delta = np.full(length, DELTA, dtype=np.float32)
    contribution = Contribution(delta, 1.0, {name: 1 for name in TOTALS if name not in ("clients", "weight_squared")})
    app = build_client_app(lambda client, order: contribution, report, Shape(length), on_client, superseded)
    context = Context(0, worker + 1, {}, state=RecordDict(), run_config={})
    return lambda message: app(message, context)


def setup() -> Any:
    from asr_fed.wire.messages import SharedConfig

    return SharedConfig("scale", b"")


def run_ours(case: Case, rounds: int) -> Iterator[float]:
    """Seconds of each round, by the functions that the ServerApp calls."""
    from asr_fed.aggregation.server_optimizer import FedAvg, server_step
    from asr_fed.aggregation.update import mean
    from asr_fed.aggregation.weighting import Uniform
    from asr_fed.config.schema import FederationConfig
    from asr_fed.engines.local_pool import LocalPool
    from asr_fed.engines.workers import Pool, Workers
    from asr_fed.federation.placement import CostModel
    from asr_fed.federation.roster import wait_for_nodes
    from asr_fed.federation.round import close_round, plan_round
    from asr_fed.model.state import StateLayout
    from asr_fed.wire.ask import ask
    from asr_fed.wire.messages import Order
    from asr_fed.wire.rounds import read_reply

    length = case.millions * 10**6
    pool: Pool
    if case.engine == "ray":
        from asr_fed.engines.ray_pool import RayPool

        pool = RayPool(functools.partial(importable("open_constant"), length))
    else:
        pool = LocalPool(functools.partial(importable("open_constant"), length))
    weights = np.zeros(length, dtype=np.float32)
    settings, layout = FederationConfig(cohort=case.cohort), StateLayout(("all",), (length,), length)
    with Workers(pool, WORKERS) as workers:
        roster, cost = wait_for_nodes(workers, setup(), WORKERS, seconds=None), CostModel()
        for server_round in range(1, rounds + 1):
            started = time.perf_counter()
            plan = plan_round(roster, cost, settings, 1234, server_round)
            order = Order(server_round, 0.1, (), weights, ticket=str(server_round), setup=setup().sha256)
            asked = ask(workers, order, plan.assignments, lambda reply, clients: read_reply(reply, clients, length))
            closed = close_round(plan, asked, roster.clients, Uniform().bounds, settings)
            if closed.update is None or closed.failures:
                raise SystemExit(f"Clients failed: {list(closed.failures.items())[:3]}")
            weights, _ = server_step(FedAvg(), weights, mean(closed.update), {}, layout)
            yield time.perf_counter() - started
    if not np.allclose(weights, rounds * DELTA, rtol=1e-3):
        raise SystemExit(f"The weights are {weights[:3]} after {rounds} rounds of {DELTA}.")


def importable(name: str) -> Any:
    """One of our functions by the name of this module, so that a Ray worker finds it."""
    import scale

    return getattr(scale, name)


def run_flower(case: Case, rounds: int, on_round: Callable[[float], None]) -> None:
    """The same by Flower's FedAvg and its simulation engine."""
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app, delta = ClientApp(), ServerApp(), DELTA

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        weights = message.content["arrays"]["state"].numpy()  # type: ignore[union-attr]
        content: dict[str, Any] = {
            "arrays": ArrayRecord({"state": Array(weights + delta)}),
            "metrics": MetricRecord({"num-examples": 20}),
        }
        return Message(RecordDict(content), reply_to=message)

    class Timed(FedAvg):
        started = 0.0

        def configure_train(self, *arguments: Any, **named: Any) -> Any:
            self.started = time.perf_counter()
            return super().configure_train(*arguments, **named)

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            gathered = list(replies)
            failed = sum(message.has_error() for message in gathered)
            if failed:
                raise SystemExit(f"{failed} of {len(gathered)} clients failed.")
            result = super().aggregate_train(server_round, gathered)
            on_round(time.perf_counter() - self.started)
            return result

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        # Nodes register one after another: a fraction would be one of those that are there already.
        strategy = Timed(
            fraction_train=case.cohort / REGISTERED,
            min_train_nodes=case.cohort,
            fraction_evaluate=0.0,
            min_available_nodes=REGISTERED,
        )
        weights = np.zeros(case.millions * 10**6, dtype=np.float32)
        strategy.start(grid=grid, initial_arrays=ArrayRecord({"state": Array(weights)}), num_rounds=rounds)

    own = {"address": "local", "num_cpus": WORKERS, "include_dashboard": False}
    resources = {"client_resources": {"num_cpus": 1}, "init_args": own}
    run_simulation(server_app, client_app, REGISTERED, backend_config=resources)  # type: ignore[arg-type]


def run_case(case: Case, rounds: int, times: Path) -> None:
    """In a process of its own: a line in `times` for each round."""
    with times.open("a", buffering=1) as file:
        if case.engine == "flower":
            run_flower(case, rounds, lambda seconds: print(seconds, file=file))
        else:
            for seconds in run_ours(case, rounds):
                print(seconds, file=file)


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def proportional_mb(process: int) -> float:
    """Resident memory in MB, pages shared by n processes counted as 1/n."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def watch(case: Case, rounds: int, seconds: float, gigabytes: float) -> Outcome:
    """Run a case in a fresh tree of processes; see the module's text for the limits."""
    with tempfile.TemporaryDirectory() as folder:
        times, log = Path(folder) / "times", Path(folder) / "log"
        times.touch()
        command = [sys.executable, __file__, "--case", case.engine, str(case.cohort), str(case.millions)]
        command += ["--rounds", str(rounds), "--times", str(times)]
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **quiet})
        started, peak, ended = time.monotonic(), 0.0, ""
        while process.poll() is None:
            processes = tree(process.pid)
            peak = max(peak, sum(map(proportional_mb, processes)))
            if time.monotonic() - started > seconds:
                ended = f"over {seconds:g} s"
            elif peak > 1024 * gigabytes:
                ended = f"over {gigabytes:g} GB"
            if ended:
                for one in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
                process.wait()
            time.sleep(0.1)
        finished = [float(line) for line in times.read_text().split()]
        if process.returncode and not ended:
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
            ended = "failed"
    return Outcome(finished, peak, ended)


def print_table(outcomes: dict[Case, Outcome]) -> None:
    table = Table(title=f"{REGISTERED:,} clients registered, {WORKERS} workers")
    for column in (
        "engine",
        "parameters",
        "cohort",
        "round, s",
        "Flower's / its",
        "peak of the tree, MB",
        "rounds",
        "",
    ):
        table.add_column(column, justify="left" if column in ("engine", "") else "right")
    for case, outcome in outcomes.items():
        flower = outcomes.get(Case("flower", case.cohort, case.millions))
        both = outcome.seconds and flower and flower.seconds
        table.add_row(
            case.engine,
            f"{case.millions} M",
            f"{case.cohort:,}",
            f"{outcome.seconds:.2f}" if outcome.seconds else "-",
            f"{flower.seconds / outcome.seconds:.1f}" if both else "-",  # type: ignore[operator,union-attr]
            f"{outcome.peak_mb:,.0f}",
            str(len(outcome.rounds)),
            outcome.ended,
        )
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Rounds without local work: our engines against Flower's simulation.")
    parser.add_argument("--cohorts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--parameters", type=int, nargs="+", default=[1, 10], help="millions")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=75, help="limit of a case")
    parser.add_argument("--gigabytes", type=float, default=12, help="limit of a case")
    parser.add_argument("--all", action="store_true", help="Flower's largest cases too")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        engine, cohort, millions = arguments.case
        run_case(Case(engine, int(cohort), int(millions)), arguments.rounds, arguments.times)
        return
    if not Path("/proc/self/smaps_rollup").is_file():
        parser.error("this reads /proc, which only Linux has")
    outcomes = {}
    for millions in arguments.parameters:
        for cohort in arguments.cohorts:
            for engine in arguments.engines:
                case = Case(engine, cohort, millions)
                if engine == "flower" and cohort * millions * 10**6 > LARGEST_FLOWER and not arguments.all:
                    continue
                outcomes[case] = watch(case, arguments.rounds, arguments.seconds, arguments.gigabytes)
                shown = " ".join(f"{seconds:.2f}" for seconds in outcomes[case].rounds)
                print(f"{engine}, {cohort} clients, {millions} M: {shown} s {outcomes[case].ended}", flush=True)
    print_table(outcomes)


if __name__ == "__main__":
    main()
