"""Which clients take part in a round, and which node trains which of them."""

import heapq
from collections.abc import Mapping, Sequence

from asr_fed.errors import UserError
from asr_fed.training.randomness import generator


def cohort_size(cohort: int | float | None, clients: int) -> int:
    """A number of clients, a fraction of them (0 < fraction <= 1, written with a point), or None for all.

    Raises UserError where that many clients do not exist.
    """
    if cohort is None:
        return clients
    if isinstance(cohort, float):
        if not 0 < cohort <= 1:
            raise UserError(f"federation.cohort={cohort} is a fraction and must lie in (0, 1].")
        return max(1, round(cohort * clients))
    if not 1 <= cohort <= clients:
        raise UserError(f"federation.cohort={cohort}, but the partition has {clients} client(s).")
    return cohort


def sample_cohort(clients: Sequence[str], size: int, seed: int, server_round: int) -> list[str]:
    """`size` different clients, sorted; the same for the same seed and round, whatever came before."""
    rng = generator(seed, "cohort", server_round)
    return sorted(rng.choice(sorted(clients), size=size, replace=False).tolist())


def place(cohort: Sequence[str], cost: Mapping[str, float], nodes: Sequence[int]) -> dict[int, list[str]]:
    """Deal clients to nodes, costliest first, each to the node with least to do so far.

    This is the longest-processing-time rule: the last node to finish takes at most 4/3 of the best possible
    time (Graham, 1969). `cost` is any number proportional to training time. Nodes without clients are left out.
    """
    loads = [(0.0, node) for node in sorted(nodes)]
    heapq.heapify(loads)
    placed: dict[int, list[str]] = {}
    for client in sorted(cohort, key=lambda client: (-cost[client], client)):
        load, node = heapq.heappop(loads)
        placed.setdefault(node, []).append(client)
        heapq.heappush(loads, (load + cost[client], node))
    return placed
