"""The server step: the mean delta as a pseudo-gradient (FedOpt, arXiv 2003.00295).

An optimizer is a pair of pure functions over one flat vector: `init` gives its state before the first round, `apply`
the next parameters and the next state. Configs name it by `_target_`. The formulas of FedAvgM, FedAdam, FedYogi and
FedAdagrad are those of Flower 1.41, whose arithmetic they follow step by step.

An optimizer moves the trainable parameters only; buffers (BatchNorm's running statistics) take the plain mean, since
an adaptive step could make a variance negative.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from asr_fed.aggregation.update import CHUNK
from asr_fed.model.state import StateLayout

State = dict[str, Any]  # numbers, and vectors float32 [parameters]


class ServerOptimizer(Protocol):
    def init(self, parameters: np.ndarray) -> State:
        """The state before the first round."""
        ...

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        """The next parameters, float32 [parameters], and the next state, from the mean delta of a round."""
        ...


def server_step(
    optimizer: ServerOptimizer, weights: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
) -> tuple[np.ndarray, State]:
    """The next global weights, float32 [state], and the optimizer's next state, from the mean delta of a round."""
    cut = layout.parameters
    following = np.empty_like(weights)
    following[:cut], state = optimizer.apply(weights[:cut], delta[:cut], state, layout)
    np.add(weights[cut:], delta[cut:], out=following[cut:])
    return following, state


@dataclass(frozen=True)
class FedAvg:
    """w <- w + delta: arXiv 1602.05629."""

    def init(self, parameters: np.ndarray) -> State:
        return {}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        return parameters + delta, state


@dataclass(frozen=True)
class FedAvgM:
    """m <- momentum * m - delta; w <- w - lr * m: arXiv 1909.06335. The first m is -delta.

    With `nesterov` it is w <- w - lr * (momentum * m - delta), as torch.optim.SGD has it: the outer optimizer of DiLoCo
    (arXiv 2311.08105).
    """

    server_learning_rate: float = 1.0
    server_momentum: float = 0.0
    nesterov: bool = False

    def init(self, parameters: np.ndarray) -> State:
        return {"m": None}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        before = state["m"]
        memory, result = np.empty_like(parameters), np.empty_like(parameters)
        for start in range(0, len(parameters), CHUNK):  # a block at a time: no further copies of the whole vector
            part = slice(start, start + CHUNK)
            old = parameters[part]
            gradient = old - (old + delta[part])  # as Flower rounds it
            memory[part] = gradient if before is None else self.server_momentum * before[part] + gradient
            step = self.server_momentum * memory[part] + gradient if self.nesterov else memory[part]
            np.subtract(old, self.server_learning_rate * step, out=result[part])
        return result, {"m": memory}


@dataclass(frozen=True)
class FedAdagrad:
    """v <- v + delta^2; w <- w + eta * delta / (sqrt(v) + tau): arXiv 2003.00295."""

    eta: float = 0.1
    tau: float = 0.001

    def init(self, parameters: np.ndarray) -> State:
        return {"v": np.zeros_like(parameters)}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        v = state["v"] + delta**2
        return parameters + self.eta * delta / (np.sqrt(v) + self.tau), {"v": v}


@dataclass(frozen=True)
class FedYogi:
    """m <- b1 m + (1 - b1) delta; v <- v - (1 - b2) delta^2 sign(v - delta^2); w <- w + eta * m / (sqrt(v) + tau).

    arXiv 2003.00295.
    """

    eta: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 0.001

    def init(self, parameters: np.ndarray) -> State:
        return {"m": np.zeros_like(parameters), "v": np.zeros_like(parameters)}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        squared = delta**2
        m = self.beta_1 * state["m"] + (1 - self.beta_1) * delta
        v = state["v"] - (1 - self.beta_2) * squared * np.sign(state["v"] - squared)
        return parameters + self.eta * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}


@dataclass(frozen=True)
class FedAdam:
    """m <- b1 m + (1 - b1) delta; v <- b2 v + (1 - b2) delta^2; w <- w + eta_t * m / (sqrt(v) + tau).

    arXiv 2003.00295, with Flower's eta_t = eta * sqrt(1 - b2^(t+1)) / (1 - b1^(t+1)) in round t = 1, 2, ...
    """

    eta: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 0.001

    def init(self, parameters: np.ndarray) -> State:
        return {"m": np.zeros_like(parameters), "v": np.zeros_like(parameters), "steps": 0}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        steps = state["steps"] + 1
        m = self.beta_1 * state["m"] + (1 - self.beta_1) * delta
        v = self.beta_2 * state["v"] + (1 - self.beta_2) * delta**2
        eta = self.eta * (1 - self.beta_2 ** (steps + 1)) ** 0.5 / (1 - self.beta_1 ** (steps + 1))
        return parameters + eta * m / (np.sqrt(v) + self.tau), {"m": m, "v": v, "steps": steps}


@dataclass(frozen=True)
class Lamb:
    """LAMB (arXiv 1904.00962) with the mean delta as negative gradient; trust ratios are per tensor.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  r = m^ / (sqrt(v^) + eps) + decay * w;
    w <- w - lr * (|w| / |r|) r, with bias-corrected m^ and v^, and ratio 1 where either norm is 0.
    """

    lr: float = 0.002
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def init(self, parameters: np.ndarray) -> State:
        return {"m": np.zeros_like(parameters), "v": np.zeros_like(parameters), "steps": 0}

    def apply(
        self, parameters: np.ndarray, delta: np.ndarray, state: State, layout: StateLayout
    ) -> tuple[np.ndarray, State]:
        gradient, steps = -delta, state["steps"] + 1
        m = self.beta_1 * state["m"] + (1 - self.beta_1) * gradient
        v = self.beta_2 * state["v"] + (1 - self.beta_2) * gradient**2
        corrected_m, corrected_v = m / (1 - self.beta_1**steps), v / (1 - self.beta_2**steps)
        direction = corrected_m / (np.sqrt(corrected_v) + self.eps) + self.weight_decay * parameters
        result = parameters.copy()
        for start, end in layout.spans():
            w, r = np.linalg.norm(parameters[start:end]), np.linalg.norm(direction[start:end])
            trust = w / r if w > 0 and r > 0 else 1.0
            result[start:end] -= self.lr * trust * direction[start:end]
        return result, {"m": m, "v": v, "steps": steps}
