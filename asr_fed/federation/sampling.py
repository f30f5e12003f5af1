"""Which clients take part in a round."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from asr_fed.config.schema import FederationConfig
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import generator


def cohort_size(cohort: int | float | None, clients: int) -> int:
    """A number of clients, a fraction of them (0 < fraction <= 1, written with a point), or None for all.

    Raises UserError where that many clients do not exist.
    """
    if cohort is None:
        return clients
    if isinstance(cohort, float):
        return max(1, round(cohort * clients))
    if not 1 <= cohort <= clients:
        raise UserError(f"federation.cohort={cohort}, but the partition has {clients} client(s).")
    return cohort


def asked_and_wanted(settings: FederationConfig, clients: int) -> tuple[int, int]:
    """How many clients a round asks, and how many of them are enough. Raises UserError as `cohort_size` does."""
    wanted = cohort_size(settings.cohort, clients)
    return min(clients, math.ceil(settings.over_commit * wanted)), wanted


def sample_cohort(clients: Sequence[str], size: int, seed: int, server_round: int, draw: int = 0) -> list[str]:
    """`size` different ones of `clients`, which are sorted; the same for the same seed, round and draw.

    Its time grows with `size`, not with the number of clients.
    """
    rng = generator(seed, "cohort", server_round, *([draw] if draw else []))
    return sorted(clients[index] for index in rng.choice(len(clients), size=size, replace=False))


def capped_cohort(
    clients: Sequence[str],
    size: int,
    wanted: int,
    share: float,
    owner: Callable[[str], int | None],
    seed: int,
    server_round: int,
) -> list[str]:
    """As `sample_cohort`, but no more than `share` of the `wanted` clients, and at least one, belong to one node.

    `owner` says which node a client belongs to; None: to none. Where the nodes are too few for that, the cohort is the
    largest one that keeps the share. Its time grows with the number of clients.
    """
    order = generator(seed, "cohort", server_round).permutation(len(clients))
    while True:
        most = max(1, math.floor(share * min(wanted, size) + 1e-9))
        taken: Counter[int | None] = Counter()
        chosen: list[str] = []
        for index in order:
            node = owner(clients[index])
            if node is None or taken[node] < most:
                taken[node] += 1
                chosen.append(clients[index])
            if len(chosen) == size:
                return sorted(chosen)
        size = len(chosen)
