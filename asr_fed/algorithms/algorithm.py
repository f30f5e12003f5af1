"""The interface of a federated algorithm: pure functions for client and server, and the vectors between them.

With every algorithm each client's delta is summed with its weight a_k (`weighting=`), and the server optimizer
(`server=`) steps along sum(a_k delta_k) / sum(a_k). The algorithm decides how a client computes its delta, which
further vectors travel, and what client and server keep between rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from asr_fed.aggregation.update import Update
from asr_fed.model.state import StateLayout
from asr_fed.training.local import ClientResult, LocalTask

Vectors = Mapping[str, np.ndarray]  # float32, by name
Kept = Mapping[str, Any]  # what a checkpoint can hold: vectors, and dicts of tensors and numbers


@dataclass(frozen=True)
class ClientStep:
    """The result of a client's round.

    summed: vectors that are added over clients besides the delta, each with weight 1.
    kept: what stays with the client's owner until the client is asked again. They are never sent.
    """

    result: ClientResult
    summed: Vectors = field(default_factory=dict)
    kept: Kept = field(default_factory=dict)


class Algorithm(Protocol):
    def sent(self, layout: StateLayout) -> dict[str, int]:
        """Names and lengths of the vectors that clients are sent besides the global weights."""
        ...

    def summed(self, layout: StateLayout) -> dict[str, int]:
        """Names and lengths of the vectors that are summed over clients besides the delta."""
        ...

    def init(self, layout: StateLayout) -> dict[str, np.ndarray]:
        """The server's state before the first round. Clients are sent the vectors of it that `sent` names."""
        ...

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        """One client's round, given what it was sent and what it kept (nothing at first)."""
        ...

    def step(self, state: dict[str, np.ndarray], update: Update) -> np.ndarray:
        """What the server optimizer steps along, float32 [state]: sum(a_k delta_k) / sum(a_k) unless it says otherwise.
        `state` is the one before the round."""
        ...

    def server(self, state: dict[str, np.ndarray], update: Update, population: int) -> dict[str, np.ndarray]:
        """The server's next state, from the sums over a round's clients; `population` is the number of all clients."""
        ...
