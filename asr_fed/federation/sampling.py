"""Which clients take part in a round, and which node trains which of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

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


def sample_cohort(clients: Sequence[str], size: int, seed: int, server_round: int) -> list[str]:
    """`size` different clients, sorted; the same for the same seed and round, whatever came before."""
    rng = generator(seed, "cohort", server_round)
    return sorted(rng.choice(sorted(clients), size=size, replace=False).tolist())


def place(
    cohort: Sequence[str], hosts: Mapping[str, Sequence[int]], seconds: Callable[[int, str], float]
) -> dict[int, list[str]]:
    """Deal clients to nodes that host them, longest first, each to the node that would finish it first.

    `hosts[client]` are the nodes that may train a client, `seconds(node, client)` is the time it would take there;
    a client counts as long as its fastest host takes. Those with a single host leave no choice and are dealt before
    all others. On equal nodes this is the longest-processing-time rule: the last node to finish takes at most 4/3
    of the best possible time (Graham, 1969).

    Returns the clients of each node, longest first; nodes without clients are left out. It does not depend on the
    order of `cohort` or of hosts. Raises ValueError where no node hosts a client.
    """
    times = {client: {node: seconds(node, client) for node in sorted(hosts[client])} for client in cohort}
    if homeless := [client for client, there in times.items() if not there]:
        raise ValueError(f"no node hosts {', '.join(homeless[:3])}")
    finish: dict[int, float] = defaultdict(float)
    placed: dict[int, list[str]] = defaultdict(list)
    for client in sorted(times, key=lambda client: (len(times[client]) > 1, -min(times[client].values()), client)):
        finished, node = min((finish[node] + time, node) for node, time in times[client].items())
        finish[node] = finished
        placed[node].append(client)
    return {
        node: sorted(clients, key=lambda client: (-times[client][node], client))
        for node, clients in sorted(placed.items())
    }
