"""MimeLite, arXiv 2008.03606, with Adam: clients step by the moments that the server keeps, and do not change them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from asr_fed.aggregation.update import Update, mean
from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.model.state import StateLayout, by_parameter, trainable
from asr_fed.training.local import LocalTask, mean_gradient, train_client

GRADIENT, FIRST, SECOND, STEPS = "gradient", "first_moment", "second_moment", "steps"


@dataclass(frozen=True)
class MimeLite:
    """Client i: K steps of y <- y - lr * m' / (sqrt(v') + eps) from x, where m' and v' are what Adam would make of the
    server's m and v with the gradient g_i(y), bias corrected: the step of the authors' own code (google/fedjax).
    Besides, the mean gradient at x over all batches of its speech.
    Server: x moves by the mean delta;  m <- beta_1 m + (1 - beta_1) g;  v <- beta_2 v + (1 - beta_2) g^2, where g is
    the mean of the clients' gradients.

    The gradient costs a pass over a client's speech in each round; `gradient_batches` bounds it. Gradients are clipped
    as those of training are. m and v travel down with the weights, g up. `federation.optimizer` has to be
    torch.optim.SGD without momentum, and `federation.lr` is Adam's.
    """

    beta_1: float = 0.9
    beta_2: float = 0.99
    eps: float = 1e-8
    gradient_batches: int | None = None

    plain_sgd: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1 and self.eps > 0):
            raise ValueError(
                f"beta_1={self.beta_1} and beta_2={self.beta_2} must be at least 0 and below 1, eps={self.eps} above 0"
            )
        if self.gradient_batches is not None and self.gradient_batches < 1:
            raise ValueError(f"gradient_batches={self.gradient_batches} must be at least 1")

    def sent(self, layout: StateLayout) -> dict[str, int]:
        return {FIRST: layout.parameters, SECOND: layout.parameters, STEPS: 1}

    def summed(self, layout: StateLayout) -> dict[str, int]:
        return {GRADIENT: layout.parameters}

    def init(self, layout: StateLayout) -> dict[str, np.ndarray]:
        return {name: np.zeros(length, dtype=np.float32) for name, length in self.sent(layout).items()}

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        gradient = mean_gradient(task, self.gradient_batches)
        step = int(sent[STEPS][0]) + 1
        model = task.context.model
        firsts, seconds = by_parameter(model, sent[FIRST]), by_parameter(model, sent[SECOND])

        def adams(model: nn.Module) -> None:
            for parameter, m, v in zip(trainable(model), firsts, seconds, strict=True):
                g = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                first = (self.beta_1 * m + (1 - self.beta_1) * g) / (1 - self.beta_1**step)
                second = (self.beta_2 * v + (1 - self.beta_2) * g * g) / (1 - self.beta_2**step)
                parameter.grad = first / (second.sqrt() + self.eps)

        return ClientStep(train_client(task, adjust=adams), summed={GRADIENT: gradient})

    def step(self, state: dict[str, np.ndarray], update: Update) -> np.ndarray:
        return mean(update)

    def server(self, state: dict[str, np.ndarray], update: Update, population: int) -> dict[str, np.ndarray]:
        g = mean(update, GRADIENT)
        return {
            FIRST: np.float32(self.beta_1) * state[FIRST] + np.float32(1 - self.beta_1) * g,
            SECOND: np.float32(self.beta_2) * state[SECOND] + np.float32(1 - self.beta_2) * g * g,
            STEPS: state[STEPS] + np.float32(1),
        }
