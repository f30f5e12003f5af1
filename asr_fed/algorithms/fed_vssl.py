"""FedVSSL, arXiv 2207.01975: federated self-supervised learning that aggregates the backbone, not the prediction head.

Flower's own baseline of that name reverses alpha, and joins lists where it means to add; this is the paper's formula.
"""

from dataclasses import dataclass, replace

import numpy as np

from asr_fed.aggregation.update import Update, mean
from asr_fed.aggregation.weighting import LossSoftmax, Measured
from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.model.state import StateLayout, layout
from asr_fed.system.errors import UserError
from asr_fed.training.local import LocalTask, train_client

BY_LOSS, LOSS_WEIGHT, HEAD, ROUNDS = "by_loss", "loss_weight", "head", "rounds"


@dataclass(frozen=True)
class FedVssl(FedAvg):
    """With theta_k client k's backbone after local training, L_k its loss and n_k its utterances:

    theta~ = alpha * sum_k softmax(-L)_k theta_k + (1 - alpha) * sum_k n_k / n theta_k
    theta <- theta~ in round 1, (1 - beta / 2) theta~ + beta / 2 theta afterwards (beta = 1: the mean of both)

    n_k is with `weighting=num_examples`; another weighting takes its place. What `head` begins the names of stays where
    it is: each client keeps its own, and the server's is trained on the server's held-out speech alone, which the
    held-out loss is measured with. Two vectors of the state's length travel up.
    """

    alpha: float = 0.9
    beta: float = 0.0
    head: str = "head."

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not 0 <= self.beta <= 1:
            raise ValueError(f"alpha={self.alpha} and beta={self.beta} must be at least 0 and at most 1")

    def summed(self, layout: StateLayout) -> dict[str, int]:
        return {BY_LOSS: layout.length, LOSS_WEIGHT: 1}

    def init(self, layout: StateLayout) -> dict[str, np.ndarray]:
        entries_of(self.head, layout)
        return {ROUNDS: np.zeros(1, np.float32)}

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        head, weights = entries_of(self.head, layout(task.context.model)), task.weights.copy()
        if HEAD in kept:
            weights[head] = kept[HEAD]
        result = train_client(replace(task, weights=weights))
        own, delta = (weights + result.delta)[head], np.where(head, np.float32(0), result.delta)
        measured = Measured(result.num_examples, result.errors.rate, result.loss, task.reference_loss)
        weight = np.float32(LossSoftmax()(measured))
        summed = {BY_LOSS: weight * delta, LOSS_WEIGHT: np.array([weight])}
        return ClientStep(replace(result, delta=delta), summed, kept={HEAD: own})

    def step(self, state: dict[str, np.ndarray], update: Update) -> np.ndarray:
        by_loss = mean(update, BY_LOSS) / mean(update, LOSS_WEIGHT)
        delta = np.float32(self.alpha) * by_loss + np.float32(1 - self.alpha) * mean(update)
        kept = 1.0 if state[ROUNDS][0] == 0 else 1 - self.beta / 2
        stepped: np.ndarray = np.float32(kept) * delta
        return stepped

    def server(self, state: dict[str, np.ndarray], update: Update, population: int) -> dict[str, np.ndarray]:
        return {ROUNDS: state[ROUNDS] + np.float32(1)}


def entries_of(prefix: str, parts: StateLayout) -> np.ndarray:
    """bool [state]: the numbers of the tensors whose names begin so. Raises UserError where there are none."""
    named = [name.startswith(prefix) for name in parts.names]
    if not any(named):
        raise UserError(
            f"algorithm.head={prefix} begins the name of nothing in this model. FedVSSL is for a pre-training, "
            "whose prediction head is 'head.'; a recogniser has none."
        )
    return np.repeat(named, parts.sizes)
