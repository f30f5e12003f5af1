"""The asynchronous mode: FedBuff, arXiv 2106.06639 (algorithm 1).

So many clients work at any time. Whoever has answered is followed at once by another one, who is sent the newest
weights; the server makes a step whenever so many updates have come. An update is s server steps old when it is added,
if so many were made since its client was sent its weights; its delta is multiplied by 1 / sqrt(1 + s) as in the paper,
and the step is the weighted mean over the buffer of deltas so damped (`aged`).

Time is not known here: updates come by the clock of a simulated fleet, or when a node has answered.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from asr_fed.aggregation.update import DELTA, Sum, Update
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import generator

GUESSES = 16  # clients that are drawn before all are shuffled


def damping(staleness: int) -> float:
    """s(staleness) of arXiv 2106.06639, section 5: 1 / sqrt(1 + staleness)."""
    return float((1 + staleness) ** -0.5)


def aged(update: Update, staleness: int, sent: np.ndarray, now: np.ndarray, parameters: int) -> Update:
    """What an update of clients that were sent the weights `sent`, so many server steps ago, adds to the weights `now`.

    Its delta is multiplied by `damping`, its weight stays; entries are rounded, half to even. That of the buffers, all
    from entry `parameters` on, is first taken from `now`: a variance goes some way towards the clients' own, where an
    old difference could lead below 0.
    """
    if staleness == 0:
        return update
    delta = update.sums[DELTA]
    exact = delta.values.astype(np.float64)
    exact[parameters:] += delta.weight * (sent[parameters:].astype(np.float64) - now[parameters:])
    values = np.rint(exact * damping(staleness)).astype(np.int64)
    peak = int(np.abs(values).max(initial=0))
    return replace(update, sums=update.sums | {DELTA: Sum(values, delta.weight, peak)})


@dataclass
class Buffer:
    """Who is at work, and whose updates have come since the last server step.

    A client is at most once in a buffer: its second update from the same weights would be the same one again.

    size: updates of a server step.
    at_once: clients at work at any time.
    version: server steps that have been made.
    asked: clients that have been asked.
    working, come: after how many steps each client was sent its weights.
    """

    size: int
    at_once: int
    seed: int
    version: int = 0
    asked: int = 0
    working: dict[str, int] = field(default_factory=dict)
    come: dict[str, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return len(self.come) >= self.size

    def ask(self, names: Sequence[str], is_there: Callable[[str], bool]) -> str | None:
        """The client that is asked next, of those who are there: it is now at work.

        None where so many are at work, or nobody else is there. The draw depends on the seed, the number of clients
        asked before, and `names`, which are sorted.
        """
        if len(self.working) >= self.at_once or len(self.working) + len(self.come) >= len(names):
            return None
        drawn = shuffled(names, generator(self.seed, "asynchronous", self.asked))
        free = (name for name in drawn if name not in self.working and name not in self.come)
        client = next((name for name in free if is_there(name)), None)
        if client is not None:
            self.working[client] = self.version
            self.asked += 1
        return client

    def lose(self, client: str) -> None:
        """It will not answer, or with nothing to add."""
        del self.working[client]

    def add(self, client: str) -> None:
        """Its update has come."""
        self.come[client] = self.working.pop(client)

    def step(self) -> dict[str, int]:
        """Empty the buffer; returns the staleness of each client's update."""
        ages = {client: self.version - version for client, version in self.come.items()}
        self.come, self.version = {}, self.version + 1
        return ages


def shuffled(names: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """All names in random order, some of them twice: the first ones cost the same however many there are."""
    for place in rng.integers(len(names), size=GUESSES):
        yield names[place]
    for place in rng.permutation(len(names)):
        yield names[place]


def check_buffer(key: str, buffer: int, clients: int, sent: Collection[str]) -> None:
    """`sent`: the names of what the algorithm sends besides the weights. Raises UserError."""
    if buffer > clients:
        raise UserError(f"{key}={buffer} is more than the {clients} clients, each of which counts once in it.")
    if sent:
        raise UserError(
            f"{key}={buffer} needs an algorithm that sends nothing but the weights, such as fed_avg or fed_prox: this "
            f"one sends {', '.join(sent)} too, which would be as old as each client's weights."
        )
