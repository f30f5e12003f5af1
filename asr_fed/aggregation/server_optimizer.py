"""The server step: the mean delta as a pseudo-gradient (FedOpt, arXiv 2003.00295).

Flower's own FedAvg, FedAdam, FedYogi and FedAdagrad do the arithmetic: each is given one reply that holds
`weights + mean delta`, which is what it would have averaged itself. LAMB is not in Flower and stands here, and FedAvgM
does for its speed.
An optimizer moves the trainable parameters only; buffers (BatchNorm's running statistics) take the plain mean, since
an adaptive step could make a variance negative.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from asr_fed.aggregation.update import CHUNK
from asr_fed.model.state import StateLayout
from asr_fed.wire.flower_private import message_of_no_one

# Attributes of Flower's strategies that outlive a round, where a strategy has them.
FLOWER_STATE = ("m_t", "v_t", "momentum_vector")


class ServerOptimizer(Protocol):
    def step(self, parameters: np.ndarray, delta: np.ndarray, layout: StateLayout, server_round: int) -> np.ndarray:
        """New parameters, float32 [parameters], from the old ones and the mean delta."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def apply_update(
    optimizer: ServerOptimizer, weights: np.ndarray, delta: np.ndarray, layout: StateLayout, server_round: int
) -> np.ndarray:
    """The next global state, float32 [state], from the mean delta of a round."""
    cut = layout.parameters
    state = np.empty_like(weights)
    state[:cut] = optimizer.step(weights[:cut], delta[:cut], layout, server_round)
    np.add(weights[cut:], delta[cut:], out=state[cut:])
    return state


class FlowerOptimizer:
    """One of Flower's FedAvg family as a server optimizer. Elementwise, so one flat array does."""

    def __init__(self, strategy: FedAvg) -> None:
        strategy.fraction_train = 0.0  # `configure_train` then notes the weights and sends nothing
        self._strategy = strategy

    def step(self, parameters: np.ndarray, delta: np.ndarray, layout: StateLayout, server_round: int) -> np.ndarray:
        if type(self._strategy) is FedAvg:  # the mean of one reply is that reply: no need to pack and unpack it
            return parameters + delta
        strategy: Any = self._strategy
        strategy.current_arrays = None  # FedAvgM keeps its own result; the server has trained on since
        strategy.configure_train(server_round, _record(parameters), ConfigRecord(), grid=None)
        arrays, _ = strategy.aggregate_train(server_round, [_reply(parameters + delta)])
        return arrays["parameters"].numpy().astype(np.float32, copy=False)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self._strategy, name) for name in FLOWER_STATE if getattr(self._strategy, name, None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self._strategy, name, value)


def _record(parameters: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"parameters": Array(parameters)})


def _reply(parameters: np.ndarray) -> Message:
    return message_of_no_one(RecordDict({"arrays": _record(parameters), "metrics": MetricRecord({"num-examples": 1})}))


@dataclass
class Momentum:
    """FedAvgM (arXiv 1909.06335): m <- momentum * m - delta; w <- w - lr * m.

    Flower's own, bit for bit, but a block at a time: it packs and unpacks every array four times a round, which takes
    eight times as long and another 3 GB for 148 M parameters.
    """

    lr: float
    momentum: float
    _m: np.ndarray | None = field(default=None, init=False, repr=False)

    def step(self, parameters: np.ndarray, delta: np.ndarray, layout: StateLayout, server_round: int) -> np.ndarray:
        first = self._m is None
        memory = np.empty_like(parameters) if self._m is None else self._m
        result = np.empty_like(parameters)
        for start in range(0, len(parameters), CHUNK):
            part = slice(start, start + CHUNK)
            old, m = parameters[part], memory[part]
            gradient = old - (old + delta[part])  # as Flower rounds it
            m[:] = gradient if first else self.momentum * m + gradient
            np.subtract(old, self.lr * m, out=result[part])
        self._m = memory
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"m": self._m}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._m = None if state["m"] is None else state["m"].copy()


@dataclass
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
    _m: np.ndarray | None = field(default=None, init=False, repr=False)
    _v: np.ndarray | None = field(default=None, init=False, repr=False)
    _steps: int = field(default=0, init=False, repr=False)

    def step(self, parameters: np.ndarray, delta: np.ndarray, layout: StateLayout, server_round: int) -> np.ndarray:
        gradient = -delta
        if self._m is None or self._v is None:
            self._m, self._v = np.zeros_like(gradient), np.zeros_like(gradient)
        self._steps += 1
        self._m = self.beta_1 * self._m + (1 - self.beta_1) * gradient
        self._v = self.beta_2 * self._v + (1 - self.beta_2) * gradient**2
        m = self._m / (1 - self.beta_1**self._steps)
        v = self._v / (1 - self.beta_2**self._steps)
        direction = m / (np.sqrt(v) + self.eps) + self.weight_decay * parameters
        result = parameters.copy()
        for start, end in layout.spans():
            w, r = np.linalg.norm(parameters[start:end]), np.linalg.norm(direction[start:end])
            trust = w / r if w > 0 and r > 0 else 1.0
            result[start:end] -= self.lr * trust * direction[start:end]
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"m": self._m, "v": self._v, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._m, self._v, self._steps = state["m"], state["v"], state["steps"]
