"""Clients without transcripts: made where they are, kept for some rounds, counted in sums, the same on any engine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.update import DELTA, LEAST_WEIGHT, ONE
from asr_fed.aggregation.weighting import LossSoftmax, NumExamples, WerSoftmax, weight_bounds_up_to
from asr_fed.data.partition import Partition
from asr_fed.data.untranscribed import hide_transcripts
from asr_fed.federation.own_labels import LABELS, own_labels
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import FederationState
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import read_state, state_sha256
from asr_fed.pipeline.train import train
from asr_fed.runs.experiment import Experiment, pooled_speech
from asr_fed.runs.records import RoundRecord, read_history
from asr_fed.runs.summary import RunSummary
from asr_fed.tasks.hypotheses import hypotheses
from asr_fed.tasks.recognition import Recognition
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import Order
from tests.federation.plain_node import PlainNode
from tests.federation.test_rounds import InProcess, Interrupted
from tests.tiny import Corpus, settings, talk, typed_config

SEMI = (
    *("data.parts.transcribed=0.4", "weighting._target_=asr_fed.aggregation.weighting.NumExamples"),
    *("federation.pseudo_labels.every=2", "federation.pseudo_labels.min_confidence=0.0"),
    *("federation.pseudo_labels.max_rate=1000.0", "federation.rounds=3"),
)


@pytest.fixture
def make(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """The session's experiment where two of five clients have transcripts. The warm start is untrained, but something
    is heard."""

    def changed(*changes: str, name: str = "run") -> Experiment:
        config = typed_config(settings(corpus, prepared, tmp_path / name), *SEMI, *changes)
        partition = hide_transcripts(experiment.partition, config.data.parts, config.seed)
        own = replace(experiment, config=config, run_dir=tmp_path / name, partition=partition)
        recogniser = own.fresh_recogniser()
        talk(recogniser.model)
        save_recogniser(recogniser, own.checkpoints / "warm_start.pt")
        return own

    return changed


def silent(partition: Partition) -> list[str]:
    return [client.id for client in partition.clients if not client.train[0].text]


def order(node: PlainNode, server_round: int, weights: np.ndarray | None = None) -> Order:
    if weights is None:
        weights = read_state(talkative(node).model)
    return Order(server_round, 0.1, tuple(node.clients), weights, reference_loss=2.5)


def talkative(node: PlainNode) -> Recognition:
    training = node.training
    assert isinstance(training, Recognition)
    talk(training.model)
    return training


def test_hypotheses_take_the_place_of_transcripts_and_stay_until_they_are_due(make: Callable[..., Experiment]) -> None:
    experiment = make()
    node, labels = PlainNode.of(experiment), experiment.config.federation.pseudo_labels
    client = node.clients[silent(experiment.partition)[0]]
    first = order(node, 1)
    heard = hypotheses(talkative(node), client.train, labels)
    own = own_labels(node.training, client, first, {}, labels)
    assert {each.id: each.text for each in own.client.train} == {
        name: each.text for name, each in heard.items() if each.text
    }
    assert own.measured_on == () and own.untranscribed == len(client.train) and own.pseudo_labelled > 0
    assert own.training.augment.time_drops == 2 * experiment.config.augment.time_drops

    talk(talkative(node).model, seed=3)
    other = order(node, 2, read_state(node.training.model))
    again = own_labels(node.training, client, other, own.kept, labels)
    assert again.client == own.client and again.kept == own.kept
    due = own_labels(node.training, client, replace(other, server_round=3), own.kept, labels)
    assert due.client != own.client and due.kept[LABELS]["due"] == 1


def test_a_client_with_transcripts_is_left_alone(make: Callable[..., Experiment]) -> None:
    experiment = make()
    node, labels = PlainNode.of(experiment), experiment.config.federation.pseudo_labels
    with_text = next(c for c in experiment.partition.clients if c.id not in silent(experiment.partition))
    own = own_labels(node.training, with_text, order(node, 1), {}, labels)
    assert own.client is with_text and own.training is node.training and own.measured_on is None and not own.kept


def test_only_what_has_a_transcript_is_measured_on_where_a_client_has_some(make: Callable[..., Experiment]) -> None:
    experiment = make()
    node, labels = PlainNode.of(experiment), experiment.config.federation.pseudo_labels
    whole = next(c for c in experiment.partition.clients if c.id not in silent(experiment.partition))
    half = replace(whole, train=(*whole.train[:2], *(replace(each, text="") for each in whole.train[2:])))
    own = own_labels(node.training, half, order(node, 1), {}, labels)
    assert own.measured_on == whole.train[:2] == own.client.train[:2]
    assert own.untranscribed == len(whole.train) - 2


def test_own_dev_speech_without_transcripts_is_not_measured_on(make: Callable[..., Experiment]) -> None:
    """Against an empty transcript each word would be an insertion."""
    experiment = make()
    node, labels = PlainNode.of(experiment), experiment.config.federation.pseudo_labels
    whole = next(c for c in experiment.partition.clients if c.id not in silent(experiment.partition))
    unheard = replace(whole, train=whole.train[1:], dev=(replace(whole.train[0], text=""),))
    own = own_labels(node.training, unheard, order(node, 1), {}, labels)
    assert own.measured_on == own.client.train == whole.train[1:]


def test_an_update_counts_them_and_holds_no_text(make: Callable[..., Experiment]) -> None:
    experiment = make()
    node = PlainNode.of(experiment, NumExamples())
    update, failures = node.update(order(node, 1))
    unheard = sum(len(node.clients[name].train) for name in silent(experiment.partition))
    assert failures == {} and update.totals["clients"] == 5 and update.totals["untranscribed"] == unheard
    with_text = [client for client in node.clients.values() if client.id not in silent(experiment.partition)]
    words = sum(len(each.text.split()) for client in with_text for each in client.dev or client.train)
    assert update.totals["measured"] == len(with_text)
    assert update.totals["words"] == words, "a WER against a client's own hypotheses means nothing"
    trained = sum(len(client.train) for client in with_text) + update.totals["pseudo_labelled"]
    assert update.totals["examples"] == trained == update.weight / ONE


def test_a_client_without_words_to_be_judged_by_weighs_least(make: Callable[..., Experiment]) -> None:
    """No errors in no words would be a WER of 0 and the most weight. With a prior it is like the others."""
    experiment = make("federation.pseudo_labels.min_utterances=1")
    node = PlainNode.of(experiment, WerSoftmax(shrink=True))
    first = replace(order(node, 1), clients=tuple(silent(experiment.partition)[:1]))
    update, failures = node.update(first)
    assert failures == {} and update.totals["pseudo_labelled"] > 0
    assert update.totals["measured"] == update.totals["words"] == 0
    assert update.weight == ONE
    update, _ = node.update(replace(first, prior=Prior(0.4, 0.01)))
    assert update.weight / ONE == pytest.approx(math.exp(1 - 0.4))


def test_a_client_that_trusts_nothing_it_hears_adds_nothing_and_is_no_failure(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.pseudo_labels.min_confidence=1.0")
    node = PlainNode.of(experiment, NumExamples())
    names = silent(experiment.partition)
    update, failures = node.update(replace(order(node, 1), clients=tuple(names[:1])))
    assert failures == {} and not update.sums[DELTA].values.any() and update.weight == LEAST_WEIGHT * ONE
    assert update.totals["pseudo_labelled"] == update.totals["words"] == update.totals["examples"] == 0
    assert update.totals["loss"] / ONE == pytest.approx(2.5)
    state = rounds(experiment)
    assert [(each.success, each.clients, each.pseudo_labelled) for each in state.history] == [(1.0, 5, 0)] * 3


def test_too_few_utterances_are_not_trained_on(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.pseudo_labels.min_utterances=1000")
    node = PlainNode.of(experiment, NumExamples())
    update, _ = node.update(replace(order(node, 1), clients=tuple(silent(experiment.partition))))
    assert not update.sums[DELTA].values.any() and update.totals["pseudo_labelled"] == 0


def rounds(experiment: Experiment, **more: Any) -> FederationState:
    grid = InProcess(experiment, NumExamples())
    return run_federation(experiment, RemoteNodes(grid), **more)  # type: ignore[arg-type]


def test_two_workers_and_one_that_is_interrupted_end_in_the_same_bits(make: Callable[..., Experiment]) -> None:
    warm = make(name="warm").checkpoints / "warm_start.pt"
    whole = make(f"warm_start.checkpoint={warm}", name="whole")
    summary = train(whole.config)
    assert isinstance(summary, RunSummary)
    page = (whole.run_dir / "report.html").read_text()
    assert "Utterances without transcripts" in page and "were trained on with the model's own hypotheses" in page

    def interrupt(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    experiment = make(name="resumed")
    for _ in range(2):  # within what the hypotheses of round 1 are kept for, and before they are due
        with pytest.raises(Interrupted):
            rounds(experiment, on_round=interrupt)
    state = rounds(experiment)
    assert all(record.pseudo_labelled for record in state.history)
    mine = read_state(load_recogniser(experiment.checkpoints / "federated.pt").model)
    assert state_sha256(mine) == summary.weights_sha256
    [*_, last] = read_history(whole.run_dir)
    assert (last.untranscribed, last.pseudo_labelled) == (
        state.history[-1].untranscribed,
        state.history[-1].pseudo_labelled,
    )


def test_hypotheses_of_each_round_are_others_than_those_of_some_rounds(make: Callable[..., Experiment]) -> None:
    some, each = (rounds(make(f"federation.pseudo_labels.every={n}", name=f"every {n}")) for n in (2, 1))
    assert some.weights.tobytes() != each.weights.tobytes()


def test_the_central_reference_is_trained_on_transcripts_alone(make: Callable[..., Experiment]) -> None:
    speech = pooled_speech(make())
    assert speech and all(utterance.text for utterance in speech)


def test_a_weight_is_bounded_by_what_all_utterances_would_give() -> None:
    assert weight_bounds_up_to(NumExamples(), 9) == (0.0, 9.0)
    fewer = LossSoftmax(num_examples_power=-1.0)
    assert weight_bounds_up_to(fewer, 9)[1] == fewer.bounds(1)[1] > fewer.bounds(9)[1]
