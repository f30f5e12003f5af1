"""Training times are learned from the rounds already run, and placement with them leaves workers little idle time."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.federation.placement import CostModel, place

NOISE = 0.1  # standard deviation of a client's log time


def true_seconds(audio: float) -> float:
    return 0.05 * audio + 0.3 * math.log1p(audio) + 0.1


def skewed(clients: int, seed: int = 0) -> dict[str, float]:
    """Seconds of audio by client, the largest 50 times the smallest."""
    sizes = 10 * 50 ** np.random.default_rng(seed).random(clients)
    sizes[:2] = 10, 500
    return {f"c{number:04}": float(size) for number, size in enumerate(sizes)}


def play(
    cost: CostModel,
    audio: dict[str, float],
    speeds: dict[int, float],
    rng: np.random.Generator,
    *,
    singly: bool = True,
    seconds: Callable[[float], float] = true_seconds,
) -> tuple[float, float]:
    """A round on nodes of such speeds. Returns the idle share of all nodes and the mean error of predictions."""
    placed = place(list(audio), dict.fromkeys(audio, tuple(speeds)), lambda node, name: cost.predict(node, audio[name]))
    busy, errors = dict.fromkeys(speeds, 0.0), []
    for node, clients in placed.items():
        taken = [seconds(audio[name]) / speeds[node] * rng.lognormal(0, NOISE) for name in clients]
        errors += [abs(cost.predict(node, audio[name]) / t - 1) for name, t in zip(clients, taken, strict=True)]
        busy[node] = sum(taken)
        if singly:
            for name, t in zip(clients, taken, strict=True):
                cost.observe(node, audio[name], t)
        else:
            cost.observe(node, [audio[name] for name in clients], busy[node])
    cost.end_round()
    return 1 - sum(busy.values()) / len(busy) / max(busy.values()), float(np.mean(errors))


def test_time_is_proportional_to_audio_until_something_is_known() -> None:
    cost = CostModel()
    assert cost.predict(1, 20.0) == 2 * cost.predict(2, 10.0) == 20.0
    cost.observe(1, 10.0, 4.0)
    assert cost.predict(1, 10.0) == 10.0  # nothing changes within a round
    cost.end_round()
    assert cost.predict(1, 30.0) == pytest.approx(12.0)
    assert cost.predict(2, 30.0) == pytest.approx(12.0)  # the best guess for a node that has shown nothing


def test_the_curve_is_recovered_and_a_node_of_few_measurements_borrows_its_shape() -> None:
    cost = CostModel()
    for audio in np.linspace(1, 100, 40):
        cost.observe(1, audio, true_seconds(audio))
    cost.observe(2, 50.0, 3 * true_seconds(50.0))
    cost.end_round()
    for audio in (0.0, 2.0, 60.0, 300.0):
        assert cost.predict(1, audio) == pytest.approx(true_seconds(audio), rel=1e-3)
        assert cost.predict(2, audio) == pytest.approx(3 * true_seconds(audio), rel=0.2)


def test_clients_timed_together_count_as_much_as_singly() -> None:
    cost, rng = CostModel(), np.random.default_rng(3)
    for clients in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        audio = rng.uniform(1, 100 / clients, clients)
        cost.observe(1, audio.tolist(), sum(map(true_seconds, audio)))
    cost.end_round()
    for audio in (2.0, 60.0):
        assert cost.predict(1, audio) == pytest.approx(true_seconds(audio), rel=1e-2)


measured = st.lists(st.tuples(st.integers(1, 3), st.floats(0, 1e4), st.floats(0, 1e4)), max_size=40)


@given(measured, st.lists(st.floats(0, 1e5), min_size=2, max_size=5))
def test_more_audio_never_takes_less_time_whatever_was_measured(
    rows: list[tuple[int, float, float]], sizes: Sequence[float]
) -> None:
    cost = CostModel()
    for node, audio, seconds in rows:
        cost.observe(node, audio, seconds)
    cost.end_round()
    for node in range(1, 5):
        predicted = [cost.predict(node, audio) for audio in sorted(sizes)]
        assert all(math.isfinite(seconds) and seconds >= 0 for seconds in predicted)
        assert predicted == sorted(predicted)


@pytest.mark.parametrize(
    ("audio", "seconds"), [(1.0, math.nan), (1.0, math.inf), (1.0, -1.0), (math.nan, 1.0), (-1.0, 1.0), ([], 1.0)]
)
def test_a_time_that_cannot_be_is_left_out(audio: float, seconds: float) -> None:
    cost = CostModel()
    cost.observe(1, audio, seconds)
    cost.end_round()
    assert cost.predict(1, 10.0) == 10.0


@pytest.mark.parametrize("clients", [1, 4, 100])
def test_a_worker_that_slows_down_is_followed_within_two_rounds(clients: int) -> None:
    cost, sizes = CostModel(), np.linspace(10, 500, clients)
    for server_round in range(12):
        for audio in sizes:
            cost.observe(1, audio, true_seconds(audio) * (2 if server_round >= 10 else 1))
            cost.observe(2, audio, true_seconds(audio))
        cost.end_round()
    assert sum(cost.predict(1, audio) for audio in sizes) == pytest.approx(2 * sum(map(true_seconds, sizes)), rel=0.05)
    assert sum(cost.predict(2, audio) for audio in sizes) == pytest.approx(sum(map(true_seconds, sizes)), rel=0.01)


def test_what_is_kept_of_a_worker_is_bounded_and_old_measurements_go() -> None:
    cost = CostModel(window=32)
    for factor in (1, 3):
        for number in range(1000):
            audio = 1.0 + number % 97
            cost.observe(1, audio, factor * true_seconds(audio))
    assert len(cost._nodes[1].window) == 32
    for _ in range(3):
        cost.end_round()
    assert cost.predict(1, 5.0) / cost.predict(1, 50.0) == pytest.approx(true_seconds(5) / true_seconds(50), rel=0.01)


@pytest.mark.parametrize("singly", [True, False])
@pytest.mark.parametrize("speeds", [{1: 1.0, 2: 1.0}, {1: 1.0, 2: 3.0}, {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}])
def test_workers_with_skewed_clients_idle_under_a_tenth_after_three_rounds(
    speeds: dict[int, float], singly: bool
) -> None:
    idle, errors = [], []
    for seed in range(5):
        cost, rng = CostModel(), np.random.default_rng(seed)
        audio = skewed(20 * len(speeds), seed)
        rounds = [play(cost, audio, speeds, rng, singly=singly) for _ in range(8)]
        idle += [share for share, _ in rounds[3:]]
        errors += [error for _, error in rounds[3:]]
    assert np.mean(idle) < 0.05 and np.quantile(idle, 0.95) < 0.1
    if singly:
        assert max(errors) < 0.15


def test_a_faster_node_gets_more_and_a_model_of_constant_cost_is_learned() -> None:
    cost, rng = CostModel(), np.random.default_rng(0)
    audio = skewed(100)
    for _ in range(4):
        idle, error = play(cost, audio, {1: 1.0, 2: 3.0}, rng, seconds=lambda x: 2.0 + 0.001 * x)
    assert idle < 0.1 and error < 0.15
    hosts = dict.fromkeys(audio, (1, 2))
    placed = place(list(audio), hosts, lambda node, name: cost.predict(node, audio[name]))
    assert 65 <= len(placed[2]) <= 85
