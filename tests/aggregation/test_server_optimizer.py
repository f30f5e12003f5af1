"""Server steps against their formulas (FedAvgM: arXiv 1909.06335; FedOpt: 2003.00295; LAMB: 1904.00962)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asr_fed.aggregation.server_optimizer import FlowerOptimizer, apply_update
from asr_fed.federation.server_app import build_server_optimizer
from asr_fed.model.state import StateLayout
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint

# Two parameter tensors of 3 and 4 numbers, then a buffer of 2.
LAYOUT = StateLayout(("a", "b", "buffer"), (3, 4, 2), 7)
FLOWER = "flwr.serverapp.strategy"
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


LAMB = "asr_fed.aggregation.server_optimizer.Lamb"
CASES: list[tuple[dict[str, Any], Formula]] = [
    ({"_target_": f"{FLOWER}.FedAvg"}, fed_avg),
    ({"_target_": f"{FLOWER}.FedAvgM", "server_learning_rate": 0.8, "server_momentum": 0.5}, fed_avgm),
    ({"_target_": f"{FLOWER}.FedAdagrad", "eta": 0.01, "tau": 1e-3}, fed_adagrad),
    ({"_target_": f"{FLOWER}.FedYogi", "eta": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, fed_yogi),
    ({"_target_": f"{FLOWER}.FedAdam", "eta": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}, fed_adam),
    ({"_target_": LAMB, "lr": 0.01, "beta_1": 0.8, "beta_2": 0.95, "eps": 1e-6, "weight_decay": 0.1}, lamb),
]
NAMES = [settings["_target_"].rsplit(".", 1)[-1] for settings, _ in CASES]


@pytest.mark.parametrize(("settings", "formula"), CASES, ids=NAMES)
def test_rounds_follow_the_formula_and_buffers_take_the_mean(settings: dict[str, Any], formula: Formula) -> None:
    optimizer = build_server_optimizer(settings)
    weights, expected, state = START.copy(), START.astype(np.float64), {}
    for number, (delta, afterwards) in enumerate(zip(DELTAS, AFTERWARDS, strict=True), start=1):
        weights = apply_update(optimizer, weights, delta, LAYOUT, number)
        parameters = formula(expected[:7], delta[:7].astype(np.float64), state, number)
        expected = np.concatenate([parameters, expected[7:] + delta[7:]])
        assert weights.dtype == np.float32 and weights.shape == (9,)
        np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=2e-6)
        # The server trains on between the rounds: the next step starts from where that led.
        weights, expected = weights + afterwards, expected + afterwards


@pytest.mark.parametrize("settings", [settings for settings, _ in CASES], ids=NAMES)
def test_state_goes_through_a_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    """Saved after the first and the second round and taken up by a new object, it goes on with the same bits."""

    def run(interrupted: bool) -> np.ndarray:
        optimizer, weights = build_server_optimizer(settings), START.copy()
        for number, delta in enumerate(DELTAS, start=1):
            weights = apply_update(optimizer, weights, delta, LAYOUT, number)
            if interrupted:
                save_checkpoint(optimizer.state_dict(), tmp_path / "optimizer.pt")
                optimizer = build_server_optimizer(settings)
                optimizer.load_state_dict(load_checkpoint(tmp_path / "optimizer.pt"))
        return weights

    assert run(False).tobytes() == run(True).tobytes()


@pytest.mark.parametrize("settings", [settings for settings, _ in CASES], ids=NAMES)
def test_an_untouched_state_round_trips(settings: dict[str, Any], tmp_path: Path) -> None:
    """A run may be stopped before its first round has moved the optimizer."""
    optimizer = build_server_optimizer(settings)
    optimizer.load_state_dict(build_server_optimizer(settings).state_dict())
    assert np.isfinite(apply_update(optimizer, START, DELTAS[0], LAYOUT, 1)).all()


@pytest.mark.parametrize("settings", [CASES[0][0], CASES[1][0]], ids=NAMES[:2])
def test_what_is_not_left_to_flower_has_the_bits_of_flowers_own(settings: dict[str, Any]) -> None:
    own = build_server_optimizer(settings)
    theirs = FlowerOptimizer(type("Theirs", (type(instantiate(settings)),), {})(**dict(list(settings.items())[1:])))
    weights = others = START[:7]
    for number, (delta, afterwards) in enumerate(zip(DELTAS, AFTERWARDS, strict=True), start=1):
        weights = own.step(weights, delta[:7], LAYOUT, number)
        others = theirs.step(others, delta[:7], LAYOUT, number)
        assert weights.tobytes() == others.tobytes()
        weights, others = weights + afterwards[:7], others + afterwards[:7]


def test_lamb_does_not_scale_where_a_norm_is_zero() -> None:
    optimizer = instantiate({"_target_": LAMB, "lr": 0.1})
    weights = START.copy()
    weights[:3] = 0
    delta = np.zeros(9, dtype=np.float32)
    delta[:3] = [0.5, -0.5, 0.25]
    new = apply_update(optimizer, weights, delta, LAYOUT, 1)
    np.testing.assert_allclose(new[:3], [0.1, -0.1, 0.1], rtol=1e-4)  # one Adam step of lr against the sign
    np.testing.assert_array_equal(new[3:], weights[3:])


@pytest.mark.parametrize("path", sorted(Path("hparams/server").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_server_group_builds_and_steps(path: Path) -> None:
    optimizer = build_server_optimizer(OmegaConf.load(path))
    new = apply_update(optimizer, START, DELTAS[0], LAYOUT, 1)
    np.testing.assert_allclose(new[7:], START[7:] + DELTAS[0][7:])
    moved = (new[:7] - START[:7]) * DELTAS[0][:7]
    assert (moved > 0).all(), "the first step goes the clients' way"
