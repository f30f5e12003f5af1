"""A round as the server sees it: fair shares out, one exact sum in, failures by name."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message

from asr_fed.aggregation.update import add_client, empty, fixed
from asr_fed.aggregation.weighting import NumExamples
from asr_fed.config.schema import FederationConfig
from asr_fed.federation.client_app import describe_client
from asr_fed.federation.cost import CostModel
from asr_fed.federation.roster import Roster
from asr_fed.federation.server_app import build_server_optimizer
from asr_fed.federation.strategy import SumOfUpdates, audio_seconds
from asr_fed.model.state import StateLayout
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.messages import (
    TOTALS,
    Hosted,
    Report,
    Setup,
    read_order,
    record_bytes,
    reply_message,
)

CLIENTS = {f"c{i}": Hosted(i, float(i), float(i)) for i in range(1, 8)}
SETUP = Setup("seed: 1", b"")
LAYOUT = StateLayout(("w", "buffer"), (4, 1), 4)
WEIGHTS = np.array([1.0, -1.0, 0.5, 0.0, 9.0], dtype=np.float32)
DELTAS = {name: np.random.default_rng(i).standard_normal(5).astype(np.float32) for i, name in enumerate(CLIENTS)}


@pytest.fixture(autouse=True)
def a_process_that_flower_knows() -> None:
    identify_process(run_id=1, node_id=0)


def strategy(
    cohort: int | float | None = None, server: str = "flwr.serverapp.strategy.FedAvg", **arguments: float
) -> SumOfUpdates:
    optimizer = build_server_optimizer({"_target_": server, **arguments})
    nodes = {node: Report(f"node {node}", False, SETUP.sha256, CLIENTS) for node in (1, 2)}
    roster = Roster(SETUP, nodes, {1, 2}, dict(CLIENTS))
    settings = FederationConfig(cohort=cohort, local_epochs=1, min_success=0.0)
    return SumOfUpdates(roster, settings, NumExamples(), 1, LAYOUT, optimizer, CostModel())


def configured(own: SumOfUpdates, server_round: int = 1) -> list[Message]:
    arrays = ArrayRecord({"state": Array(WEIGHTS)})
    return list(own.configure_train(server_round, arrays, ConfigRecord({"lr": 0.5}), None))  # type: ignore[arg-type]


def answer(message: Message, without: tuple[str, ...] = ()) -> Message:
    """What a node would send whose client k has weight k, WER k of 10 words, and loss k."""
    update, failures = empty(5), {}
    for name in read_order(message).clients:
        if name in without:
            failures[name] = "ill"
            continue
        number = int(name[1:])
        totals = dict.fromkeys(TOTALS[2:], number)
        totals |= {"loss": fixed(float(number)), "word_errors": number, "words": 10}
        add_client(update, DELTAS[name], float(number), totals)
    return reply_message(message, update, failures)


def expected_state(names: Iterable[str]) -> np.ndarray:
    weights = np.array([float(name[1:]) for name in names])
    deltas = np.array([DELTAS[name] for name in names], dtype=np.float64)
    return WEIGHTS + weights @ deltas / weights.sum()


def test_every_node_gets_one_message_with_its_share() -> None:
    own = strategy()
    messages = configured(own, server_round=4)
    orders = {message.metadata.dst_node_id: read_order(message) for message in messages}
    assert orders.keys() == {1, 2}
    assert sorted(name for order in orders.values() for name in order.clients) == sorted(CLIENTS)
    loads = [sum(CLIENTS[name].examples for name in order.clients) for order in orders.values()]
    assert loads == [14, 14]
    for order in orders.values():
        assert (order.server_round, order.lr) == (4, 0.5)
        np.testing.assert_array_equal(order.weights, WEIGHTS)
    assert own.round.cohort == sorted(CLIENTS)
    assert own.round.bytes_down == sum(map(record_bytes, messages))


def test_the_cohort_is_what_was_asked_for_and_differs_by_round() -> None:
    own, cohorts = strategy(cohort=3), []
    for server_round in range(1, 9):
        configured(own, server_round)
        cohorts.append(tuple(own.round.cohort))
    assert all(len(set(cohort)) == 3 for cohort in cohorts)
    assert len(set(cohorts)) > 1
    again = strategy(cohort=3)
    configured(again, 8)  # as after a resume
    assert tuple(again.round.cohort) == cohorts[-1]


def test_the_state_moves_by_the_weighted_mean_and_the_metrics_are_sums() -> None:
    own = strategy()
    replies = [answer(message) for message in configured(own)]
    arrays, metrics = own.aggregate_train(1, replies)
    assert arrays is not None and metrics is not None
    np.testing.assert_allclose(arrays["state"].numpy(), expected_state(CLIENTS), rtol=1e-6, atol=1e-6)
    assert arrays["state"].numpy().dtype == np.float32
    assert (metrics["clients"], metrics["weight_sum"], metrics["examples"]) == (7, 28.0, 28)
    assert metrics["effective_clients"] == pytest.approx(28**2 / 140)  # (sum a)^2 / sum a^2
    assert metrics["loss"] == pytest.approx(4.0)
    assert metrics["client_wer"] == pytest.approx(40.0)
    assert metrics["audio_seconds"] == metrics["train_seconds"] == 0.028
    assert own.round.bytes_up == sum(map(record_bytes, replies))
    assert own.round.failures == {}


def test_the_order_of_the_replies_does_not_matter() -> None:
    states = []
    for turn in (1, -1):
        own = strategy()
        arrays, metrics = own.aggregate_train(1, [answer(message) for message in configured(own)][::turn])
        assert arrays is not None
        states.append((arrays["state"].numpy().tobytes(), metrics))
    assert states[0] == states[1]


def test_a_failed_client_is_named_and_does_not_count() -> None:
    own = strategy()
    arrays, metrics = own.aggregate_train(1, [answer(message, without=("c2", "c7")) for message in configured(own)])
    assert arrays is not None and metrics is not None
    rest = [name for name in CLIENTS if name not in ("c2", "c7")]
    np.testing.assert_allclose(arrays["state"].numpy(), expected_state(rest), rtol=1e-6, atol=1e-6)
    assert metrics["clients"] == 5
    assert own.round.failures == {"c2": "ill", "c7": "ill"}


def test_a_lost_node_loses_its_clients_only() -> None:
    own = strategy()
    first, second = configured(own)
    identify_process(run_id=1, node_id=second.metadata.dst_node_id)
    lost = Message(Error(2, "worker 2 died"), reply_to=second)
    identify_process(run_id=1, node_id=0)
    arrays, _ = own.aggregate_train(1, [answer(first), lost])
    assert arrays is not None
    np.testing.assert_allclose(arrays["state"].numpy(), expected_state(read_order(first).clients), rtol=1e-6, atol=1e-6)
    assert own.round.failures == dict.fromkeys(read_order(second).clients, "worker 2 died")


def test_a_round_without_any_update_changes_nothing() -> None:
    own = strategy()
    replies = [answer(message, without=tuple(CLIENTS)) for message in configured(own)]
    assert own.aggregate_train(1, replies) == (None, None)
    assert own.round.failures == dict.fromkeys(CLIENTS, "ill")


def test_weights_that_become_infinite_stop_the_run() -> None:
    own = strategy(server="flwr.serverapp.strategy.FedAvgM", server_learning_rate=1e39, server_momentum=0.1)
    replies = [answer(message) for message in configured(own)]
    with pytest.raises(UserError, match="infinite"), np.errstate(all="ignore"):
        own.aggregate_train(1, replies)


def test_a_client_costs_the_audio_it_goes_through(experiment: Experiment) -> None:
    client = max(experiment.partition.clients, key=lambda client: len(client.train))
    hosted, config = describe_client(client), experiment.config.federation
    seconds = sum(utterance.duration for utterance in client.train)
    assert audio_seconds(hosted, replace(config, local_epochs=3)) == pytest.approx(3 * seconds + seconds)
    # 5 steps of 4 utterances are two passes over ten
    assert audio_seconds(hosted, replace(config, local_steps=5)) == pytest.approx(2 * seconds + seconds)
