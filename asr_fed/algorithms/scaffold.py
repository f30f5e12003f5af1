"""SCAFFOLD, arXiv 1910.06378 (algorithm 1, option II): control variates correct the drift of local training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from asr_fed.aggregation.update import ONE, Update, mean
from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.model.state import StateLayout, by_parameter, trainable
from asr_fed.training.local import LocalTask, train_client

CONTROL = "control"


@dataclass(frozen=True)
class Scaffold:
    """Client i: K steps of y <- y - lr * (g_i(y) - c_i + c) from x;  c_i+ = c_i - c + (x - y) / (K * lr).
    Server: x moves by the mean delta;  c <- c + |S| / N * mean over the cohort S of (c_i+ - c_i).

    c is sent with the weights; c_i stays with the client's owner. Both cover the trainable parameters only. The
    formulas hold for plain SGD, so `federation.optimizer` has to be torch.optim.SGD without momentum.
    """

    plain_sgd: ClassVar[bool] = True

    def sent(self, layout: StateLayout) -> dict[str, int]:
        return {CONTROL: layout.parameters}

    def summed(self, layout: StateLayout) -> dict[str, int]:
        return {CONTROL: layout.parameters}

    def init(self, layout: StateLayout) -> dict[str, np.ndarray]:
        return {CONTROL: np.zeros(layout.parameters, dtype=np.float32)}

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        c = sent[CONTROL]
        c_i = kept.get(CONTROL, np.zeros_like(c))
        result = train_client(task, adjust=adding(by_parameter(task.context.model, c - c_i)))
        moved = result.delta[: len(c)]  # y - x, of the parameters
        new = c_i - c - moved / np.float32(max(1, result.steps) * task.lr)
        return ClientStep(result, summed={CONTROL: new - c_i}, kept={CONTROL: new})

    def step(self, state: dict[str, np.ndarray], update: Update) -> np.ndarray:
        return mean(update)

    def server(self, state: dict[str, np.ndarray], update: Update, population: int) -> dict[str, np.ndarray]:
        clients = update.sums[CONTROL].weight // ONE  # |S|: each counted once
        return {CONTROL: state[CONTROL] + np.float32(clients / population) * mean(update, CONTROL)}


def adding(correction: Sequence[torch.Tensor]) -> Callable[[nn.Module], None]:
    """Adds to the gradient of each parameter."""

    def adjust(model: nn.Module) -> None:
        for parameter, added in zip(trainable(model), correction, strict=True):
            parameter.grad = added.clone() if parameter.grad is None else parameter.grad.add_(added)

    return adjust
