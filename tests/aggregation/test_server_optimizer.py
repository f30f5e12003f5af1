"""Server steps against their formulas (FedAvgM: arXiv 1909.06335; FedOpt: 2003.00295; LAMB: 1904.00962)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asr_fed.aggregation.server_optimizer import Lamb, server_step
from asr_fed.model.state import StateLayout
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.wire.flower_private import identify_process

# Two parameter tensors of 3 and 4 numbers, then a buffer of 2.
LAYOUT = StateLayout(("a", "b", "buffer"), (3, 4, 2), 7)
ROUNDS = 3

rng = np.random.default_rng(8)
START = rng.standard_normal(9).astype(np.float32)
DELTAS = (0.1 * rng.standard_normal((ROUNDS, 9))).astype(np.float32)
AFTERWARDS = (0.01 * rng.standard_normal((ROUNDS, 9))).astype(np.float32)  # what held-out training adds

Formula = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def fed_avg(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    return w + delta


def fed_avgm(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    state["v"] = 0.5 * state.get("v", 0) + delta
    return w + 0.8 * state["v"]


def nesterov(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """torch.optim.SGD(lr=0.8, momentum=0.5, nesterov=True) with the gradient -delta."""
    if not state:
        state["w"] = torch.zeros(7, dtype=torch.float64)
        state["sgd"] = torch.optim.SGD([state["w"]], lr=0.8, momentum=0.5, nesterov=True)
    state["w"].copy_(torch.from_numpy(w))
    state["w"].grad = torch.from_numpy(-delta)
    state["sgd"].step()
    return state["w"].numpy().copy()


def fed_adagrad(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    state["v"] = state.get("v", 0) + delta**2
    return w + 0.01 * delta / (np.sqrt(state["v"]) + 1e-3)


def fed_yogi(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * delta
    v = state.get("v", np.zeros_like(delta))
    state["v"] = v - (1 - 0.99) * delta**2 * np.sign(v - delta**2)
    return w + 0.02 * state["m"] / (np.sqrt(state["v"]) + 1e-3)


def fed_adam(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    """With Flower's bias correction, which counts rounds from 0 and so has exponents t + 1 for its round t."""
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * delta
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * delta**2
    eta = 0.02 * np.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
    return w + eta * state["m"] / (np.sqrt(state["v"]) + 1e-3)


def lamb(w: np.ndarray, delta: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
    new = []
    for name, part in (("a", slice(0, 3)), ("b", slice(3, 7))):
        gradient = -delta[part]
        m = state[f"m{name}"] = 0.8 * state.get(f"m{name}", 0) + 0.2 * gradient
        v = state[f"v{name}"] = 0.95 * state.get(f"v{name}", 0) + 0.05 * gradient**2
        step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6) + 0.1 * w[part]
        trust = np.sqrt((w[part] ** 2).sum()) / np.sqrt((step**2).sum())
        new.append(w[part] - 0.01 * trust * step)
    return np.concatenate(new)


OURS = "asr_fed.aggregation.server_optimizer"
CASES: list[tuple[dict[str, Any], Formula]] = [
    ({"_target_": f"{OURS}.FedAvg"}, fed_avg),
    ({"_target_": f"{OURS}.FedAvgM", "server_learning_rate": 0.8, "server_momentum": 0.5}, fed_avgm),
    ({"_target_": f"{OURS}.FedAdagrad", "eta": 0.01, "tau": 1e-3}, fed_adagrad),
    ({"_target_": f"{OURS}.FedYogi", "eta": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, fed_yogi),
    ({"_target_": f"{OURS}.FedAdam", "eta": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, fed_adam),
    ({"_target_": f"{OURS}.Lamb", "lr": 0.01, "beta_1": 0.8, "beta_2": 0.95, "eps": 1e-6, "weight_decay": 0.1}, lamb),
]
NAMES = [settings["_target_"].rsplit(".", 1)[-1] for settings, _ in CASES]
NESTEROV = {"_target_": f"{OURS}.FedAvgM", "server_learning_rate": 0.8, "server_momentum": 0.5, "nesterov": True}
CASES.append((NESTEROV, nesterov))
NAMES.append("Nesterov")


@pytest.mark.parametrize(("settings", "formula"), CASES, ids=NAMES)
def test_rounds_follow_the_formula_and_buffers_take_the_mean(settings: dict[str, Any], formula: Formula) -> None:
    optimizer = instantiate(settings)
    weights, expected, worked_out = START.copy(), START.astype(np.float64), {}
    state = optimizer.init(weights[:7])
    for number, (delta, afterwards) in enumerate(zip(DELTAS, AFTERWARDS, strict=True), start=1):
        weights, state = server_step(optimizer, weights, delta, state, LAYOUT)
        parameters = formula(expected[:7], delta[:7].astype(np.float64), worked_out, number)
        expected = np.concatenate([parameters, expected[7:] + delta[7:]])
        assert weights.dtype == np.float32 and weights.shape == (9,)
        np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=2e-6)
        # The server trains on between the rounds: the next step starts from where that led.
        weights, expected = weights + afterwards, expected + afterwards


@pytest.mark.parametrize("settings", [settings for settings, _ in CASES[:5]], ids=NAMES[:5])
def test_twenty_rounds_are_those_of_flowers_own_strategy(settings: dict[str, Any]) -> None:
    """Each round Flower's strategy is handed one reply: what the mean of all replies would be."""
    ours, arguments = instantiate(settings), {name: value for name, value in settings.items() if name != "_target_"}
    theirs = getattr(flower, type(ours).__name__)(fraction_train=0.0, **arguments)
    generator = np.random.default_rng(4)
    weights = others = START[:7]
    state = ours.init(weights)
    for number in range(1, 21):
        delta = (0.1 * generator.standard_normal(7)).astype(np.float32)
        weights, state = ours.apply(weights, delta, state, LAYOUT)
        theirs.current_arrays = None  # FedAvgM keeps its own result
        list(theirs.configure_train(number, ArrayRecord({"p": Array(others)}), ConfigRecord(), None))
        identify_process(run_id=1, node_id=0)
        question = Message(RecordDict(), 2, MessageType.TRAIN)
        content = {"arrays": ArrayRecord({"p": Array(others + delta)}), "m": MetricRecord({"num-examples": 1})}
        identify_process(run_id=1, node_id=2)
        arrays, _ = theirs.aggregate_train(number, [Message(RecordDict(content), reply_to=question)])
        assert arrays is not None
        others = arrays["p"].numpy().astype(np.float32)
        np.testing.assert_allclose(weights, others, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [settings for settings, _ in CASES], ids=NAMES)
def test_state_goes_through_a_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    """Saved before the first round and after each, it goes on with the same bits."""

    def run(interrupted: bool) -> np.ndarray:
        optimizer, weights = instantiate(settings), START.copy()
        state = optimizer.init(weights[:7])
        for delta in DELTAS:
            if interrupted:
                save_checkpoint(state, tmp_path / "optimizer.pt")
                state = load_checkpoint(tmp_path / "optimizer.pt")
            weights, state = server_step(optimizer, weights, delta, state, LAYOUT)
        return weights

    assert run(False).tobytes() == run(True).tobytes()


def test_lamb_does_not_scale_where_a_norm_is_zero() -> None:
    optimizer = Lamb(lr=0.1)
    weights = START.copy()
    weights[:3] = 0
    delta = np.zeros(9, dtype=np.float32)
    delta[:3] = [0.5, -0.5, 0.25]
    new, _ = server_step(optimizer, weights, delta, optimizer.init(weights[:7]), LAYOUT)
    np.testing.assert_allclose(new[:3], [0.1, -0.1, 0.1], rtol=1e-4)  # one Adam step of lr against the sign
    np.testing.assert_array_equal(new[3:], weights[3:])


@pytest.mark.parametrize("path", sorted(Path("hparams/server").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_server_group_builds_and_steps(path: Path) -> None:
    optimizer = instantiate(OmegaConf.load(path))
    new, _ = server_step(optimizer, START, DELTAS[0], optimizer.init(START[:7]), LAYOUT)
    np.testing.assert_allclose(new[7:], START[7:] + DELTAS[0][7:])
    moved = (new[:7] - START[:7]) * DELTAS[0][:7]
    assert (moved > 0).all(), "the first step goes the clients' way"
