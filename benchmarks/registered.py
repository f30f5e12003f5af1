"""What a round costs the server where 1,000, 100,000 and 1,000,000 clients are registered, and 100 are asked.

    python benchmarks/registered.py [--registered 1000 100000 1000000] [--cohort 100] [--rounds 20]

Two nodes host all clients, as simulated ones. Timed is what the server itself does for a round, by the functions that
the rounds call: draw the cohort, place it on the nodes, close the round, let the cost model learn (CPU milliseconds,
median). Training and the exchange of weights are left out: they depend on the cohort alone. Registration happens once a
run. Memory is what a round adds at its peak, and what the registered clients take.
"""

import argparse
import statistics
import time
import tracemalloc

from rich.console import Console
from rich.table import Table

from asr_fed.aggregation.weighting import Uniform
from asr_fed.config.schema import FederationConfig
from asr_fed.federation.placement import CostModel
from asr_fed.federation.roster import Roster
from asr_fed.federation.round import close_round, learn, plan_round
from asr_fed.wire.ask import Asked
from asr_fed.wire.messages import ClientSize, Report, SharedConfig

NODES = 2


def register(count: int) -> Roster:
    clients = {f"client-{number:07d}": ClientSize(4 + number % 97, 10.0 + number % 97, 3.0) for number in range(count)}
    reports = {
        node: Report(f"worker {node}", own=False, setup="0" * 64, clients=clients) for node in range(1, NODES + 1)
    }
    return Roster(SharedConfig("registered", b""), reports, set(reports), dict(clients))


def serve(roster: Roster, cost: CostModel, settings: FederationConfig, server_round: int) -> float:
    """CPU seconds of the server's own work for a round that no update reaches, though each client has been timed."""
    started = time.process_time()
    plan = plan_round(roster, cost, settings, 1234, server_round)
    timings = [(each.node, client, 1.0) for each in plan.assignments for client in each.clients]
    close_round(plan, Asked(), roster.clients, Uniform().bounds, settings)
    learn(cost, plan, Asked(), roster.clients, settings, timings)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registered", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    chosen = parser.parse_args()
    table = Table("registered", "CPU ms a round", "MB a round", "MB registered", "CPU s to register")
    for count in chosen.registered:
        started = time.process_time()
        register(count)
        registering = time.process_time() - started
        tracemalloc.start()
        roster = register(count)
        settings, cost = FederationConfig(cohort=chosen.cohort), CostModel()
        serve(roster, cost, settings, 0)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        serve(roster, cost, settings, 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        times = [serve(roster, cost, settings, server_round) for server_round in range(2, chosen.rounds + 2)]
        table.add_row(
            f"{count:,}",
            f"{1000 * statistics.median(times):.1f}",
            f"{(peak - before) / 1e6:.2f}",
            f"{before / 1e6:.0f}",
            f"{registering:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
