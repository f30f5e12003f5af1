"""Sampling that looks at speed and at what there is to learn: Oort, arXiv 2010.06081 (OSDI 2021, algorithm 1).

A client's utility is statistical, |B_i| * sqrt(mean of squared losses over its B_i utterances), plus
sqrt(0.1 ln R / L_i) for R rounds so far of which it last took part in round L_i; where it needs longer than the
preferred time T, times (T / own time)^alpha. Part of a cohort are clients that were never asked, the faster the
likelier.

Two things are other than in the paper. Losses of single clients leave no client here: in their place stands the mean
loss of the round in which it last took part. And T is a percentile of all clients' times, in place of one that a pacer
moves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asr_fed.config.simulation import OortConfig
from asr_fed.system.randomness import generator


@dataclass
class Memory:
    """When each client last took part, and the mean loss of that round."""

    last: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, server_round: int, clients: Sequence[str], loss: float) -> None:
        self.last |= dict.fromkeys(clients, (server_round, loss))


def choose_by_utility(
    there: Sequence[str],
    size: int,
    *,
    memory: Memory,
    seconds: Mapping[str, float],
    examples: Mapping[str, int],
    settings: OortConfig,
    seed: int,
    server_round: int,
    draw: int = 0,
) -> list[str]:
    """`size` of the clients that are there, sorted; the same for the same seed, round and memory."""
    rng = generator(seed, "oort", server_round, draw)
    known = sorted(client for client in there if client in memory.last)
    unknown = sorted(client for client in there if client not in memory.last)
    exploration = max(
        settings.least_exploration, settings.exploration * settings.exploration_decay ** (server_round - 1)
    )
    explored = min(len(unknown), max(size - len(known), round(exploration * size)))
    fresh = _drawn(rng, unknown, [1 / max(seconds[client], 1e-9) for client in unknown], explored)
    preferred = float(np.percentile(list(seconds.values()), settings.preferred_percentile))
    worth = {
        client: utility(memory.last[client], server_round, examples[client], seconds[client], preferred, settings)
        for client in known
    }
    exploited = size - len(fresh)
    if exploited <= 0:
        return sorted(fresh)
    last_of_best = sorted(worth.values(), reverse=True)[min(exploited, len(worth)) - 1]
    pool = [client for client in known if worth[client] >= settings.cutoff * last_of_best]
    return sorted([*fresh, *_drawn(rng, pool, [worth[client] for client in pool], exploited)])


def utility(
    last: tuple[int, float], server_round: int, examples: int, seconds: float, preferred: float, settings: OortConfig
) -> float:
    """Of a client that last took part in round `last[0]`, whose mean loss was `last[1]`."""
    took_part, loss = last
    statistical = examples * abs(loss) + math.sqrt(0.1 * math.log(max(server_round, 1)) / took_part)
    return statistical * math.pow(min(1.0, preferred / max(seconds, 1e-9)), settings.alpha)


def _drawn(rng: np.random.Generator, clients: Sequence[str], weights: Sequence[float], size: int) -> list[str]:
    """Different clients, each as likely as its weight says; all alike where no weight is above 0."""
    if size <= 0 or not clients:
        return []
    shares = np.asarray(weights, dtype=np.float64)
    positive = int((shares > 0).sum())
    shares = shares / shares.sum() if positive >= size else np.full(len(clients), 1 / len(clients))
    return [clients[place] for place in rng.choice(len(clients), size=size, replace=False, p=shares)]
