"""FedAvg, arXiv 1602.05629: clients train from the global weights, and nothing but the delta is summed."""

from dataclasses import dataclass

import numpy as np

from asr_fed.aggregation.update import Update, mean
from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.model.state import StateLayout
from asr_fed.training.local import LocalTask, train_client


@dataclass(frozen=True)
class FedAvg:
    """y_k = E epochs of the local optimizer from w;  delta_k = y_k - w."""

    def sent(self, layout: StateLayout) -> dict[str, int]:
        return {}

    def summed(self, layout: StateLayout) -> dict[str, int]:
        return {}

    def init(self, layout: StateLayout) -> dict[str, np.ndarray]:
        return {}

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        return ClientStep(train_client(task))

    def step(self, state: dict[str, np.ndarray], update: Update) -> np.ndarray:
        return mean(update)

    def server(self, state: dict[str, np.ndarray], update: Update, population: int) -> dict[str, np.ndarray]:
        return state
