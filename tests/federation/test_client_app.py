"""A node: many clients in, one update out, and one client's trouble is its own."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_fed.aggregation.update import DELTA, Update, UpdateRefused, merge
from asr_fed.aggregation.weighting import Measured, NumExamples, Weighting, WerSoftmax
from asr_fed.data.partition import Client
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.federation.client_app import Contribution, train_clients
from asr_fed.federation.totals import client_totals
from asr_fed.model.state import read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.training.local import ClientResult
from asr_fed.wire.messages import Order
from tests.faults import Mishaps
from tests.federation.plain_node import PlainNode, content


@pytest.fixture
def node(experiment: Experiment) -> PlainNode:
    return PlainNode.of(experiment)


@pytest.fixture
def weights(node: PlainNode) -> np.ndarray:
    return read_state(node.training.recogniser.model)


def trained(**changes: Any) -> ClientResult:
    content = {
        "delta": np.zeros(1, dtype=np.float32),
        "num_examples": 9,
        "loss": 2.0,
        "errors": ErrorCounts(substitutions=2, deletions=1, insertions=1, units=16),
        "audio_seconds": 1.0,
        "train_seconds": 1.0,
        "skipped_steps": 0,
    }
    return ClientResult(**(content | changes))


def train(node: PlainNode, weights: np.ndarray, clients: list[str]) -> tuple[Update, dict[str, str]]:
    return node.update(Order(server_round=1, lr=0.1, clients=tuple(clients), weights=weights))


def test_nodes_of_any_shape_add_up_to_the_same_bits(node: PlainNode, weights: np.ndarray) -> None:
    names = list(node.clients)
    whole, failures = train(node, weights, names)
    first, _ = train(node, weights, names[3:])
    second, _ = train(node, weights, [names[1], names[0], names[2]])
    assert content(merge([first, second])) == content(whole)
    assert failures == {} and whole.totals["clients"] == 5
    assert whole.totals["examples"] == sum(len(client.train) for client in node.clients.values())


def test_each_client_is_reported_as_it_is_done(node: PlainNode, weights: np.ndarray) -> None:
    done: list[tuple[str, float]] = []
    names = (*list(node.clients)[:2], "nobody")
    train_clients(node.train, Order(1, 0.1, names, weights), node.shape, on_client=lambda *told: done.append(told))
    assert [name for name, _ in done] == list(names)
    assert all(seconds > 0 for _, seconds in done)


def test_a_superseded_order_is_left_between_two_clients(node: PlainNode, weights: np.ndarray) -> None:
    done: list[str] = []
    names = tuple(node.clients)
    train_clients(
        node.train,
        Order(1, 0.1, names, weights),
        node.shape,
        on_client=lambda name, seconds: done.append(name),
        superseded=lambda: len(done) == 2,
    )
    assert done == list(names[:2])


def with_empty_client(node: PlainNode, name: str) -> None:
    node.clients[name] = Client(name, (), ())


def with_weighting(weighting: Weighting) -> Callable[[PlainNode, str], None]:
    def change(node: PlainNode, name: str) -> None:
        size = len(node.clients[name].train)
        node.weighting = lambda result: weighting(result) if result.num_examples == size else WerSoftmax()(result)

    return change


def with_lost_recording(node: PlainNode, name: str) -> None:
    lost = replace(node.clients[name].train[0], id="not in the cache")
    node.clients[name] = Client(name, (lost,), ())


def fail(client: Measured) -> float:
    raise OSError("what the client said")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_empty_client, "no speech"),
        (lambda node, name: node.clients.pop(name), "KeyError at plain_node.py:"),
        (with_lost_recording, "KeyError at features.py:"),
        (with_weighting(fail), "OSError at test_client_app.py:"),
        (with_weighting(lambda result: float("nan")), "a weight of nan"),
        (with_weighting(lambda result: float("inf")), "a weight of inf"),
        (with_weighting(lambda result: 0.0), "a weight of 0.0"),
        (with_weighting(lambda result: 1e30), "too large"),
    ],
)
def test_one_clients_trouble_is_named_and_touches_no_other(
    node: PlainNode, weights: np.ndarray, change: Callable[[PlainNode, str], None], reason: str
) -> None:
    names = list(node.clients)
    ill = names[1]
    healthy, _ = train(node, weights, [name for name in names if name != ill])
    change(node, ill)
    update, failures = train(node, weights, names)
    assert failures.keys() == {ill} and reason in failures[ill]
    assert "what the client said" not in failures[ill]  # the reason leaves the client
    assert content(update) == content(healthy)


def test_a_training_that_diverges_is_left_out(node: PlainNode, weights: np.ndarray) -> None:
    broken = weights.copy()
    broken[0] = np.nan
    update, failures = train(node, broken, list(node.clients)[:2])
    assert set(failures) == set(list(node.clients)[:2])
    assert update.weight == 0 and not update.sums[DELTA].values.any() and update.totals == {}


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="loss of nan"):
        client_totals(trained(loss=float("nan")))


def test_a_wer_below_zero_is_refused_and_one_above_one_weighs_as_one() -> None:
    with pytest.raises(UpdateRefused, match="WER of -3 errors in 10 words"):
        client_totals(replace(trained(), errors=ErrorCounts(0, -3, 0, 10)))
    twice = replace(trained(), errors=ErrorCounts(0, 0, 20, 10))
    assert client_totals(twice)["word_errors"] == 20 and WerSoftmax()(Measured(9, twice.errors.rate, 2.0)) == 1.0


def test_a_delta_of_another_shape_is_named_and_touches_no_other(node: PlainNode, weights: np.ndarray) -> None:
    names = tuple(node.clients)

    def train_badly(name: str, order: Order) -> Contribution:
        own = node.train(name, order)
        return replace(own, delta=own.delta[:-1]) if name == names[2] else own

    update, failures = train_clients(train_badly, Order(1, 0.1, names, weights), node.shape)
    healthy, _ = train(node, weights, [name for name in names if name != names[2]])
    assert list(failures) == [names[2]] and "shape" in failures[names[2]]
    assert content(update) == content(healthy)


def test_a_client_that_eats_all_memory_is_named_and_touches_no_other(node: PlainNode, weights: np.ndarray) -> None:
    """Under a real limit of the process's memory."""
    names = tuple(node.clients)

    def train_greedily(name: str, order: Order) -> Contribution:
        if name == names[1]:
            with little_memory():
                np.ones(1 << 33)
        return node.train(name, order)

    update, failures = train_clients(train_greedily, Order(1, 0.1, names, weights), node.shape)
    healthy, _ = train(node, weights, [name for name in names if name != names[1]])
    assert list(failures) == [names[1]] and "MemoryError at" in failures[names[1]]
    assert content(update) == content(healthy)


@contextmanager
def little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 34, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_faults_of_the_tests_do_what_they_say(tmp_path: Path) -> None:
    def of(examples: int) -> Measured:
        return Measured(examples, 0.25, 2.0)

    mishaps = Mishaps(str(tmp_path), raises_at=1, nan_at=2, dies_at=3)
    with pytest.raises(RuntimeError):
        mishaps(of(1))
    assert np.isnan(mishaps(of(2)))
    assert mishaps(of(9)) == WerSoftmax()(of(9)) != NumExamples()(of(9))
