"""Personalisation over nodes: the plain function's gains, kept through a kill, whatever a node answers."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from asr_fed.data.partition import Client, Partition
from asr_fed.federation.client_app import personalise_speech
from asr_fed.federation.personalisation import personalise_clients, summarise_gains
from asr_fed.federation.roster import join
from asr_fed.model.state import read_state, state_sha256
from asr_fed.reporting.report import describe_gains
from asr_fed.runs.experiment import Experiment
from asr_fed.wire.ask import AWAY
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import Gained
from tests.federation.test_rounds import InProcess, Interrupted
from tests.tiny import Corpus, settings, typed_config


@pytest.fixture
def holding_back(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Experiment:
    """The session's experiment, each client with two utterances held back but for the last."""

    def split(client: Client) -> Client:
        return replace(client, train=client.train[:-2], dev=client.train[-2:])

    config = typed_config(settings(corpus, prepared, tmp_path), "personalisation.epochs=1", "personalisation.lr=0.05")
    old = experiment.partition
    clients = (*map(split, old.clients[:-1]), old.clients[-1])
    own = replace(
        experiment,
        config=config,
        run_dir=tmp_path,
        partition=Partition(old.warm_up, old.held_out, old.dev, old.test, clients),
    )
    own.checkpoints.mkdir()
    return own


@pytest.fixture
def weights(holding_back: Experiment) -> np.ndarray:
    return read_state(holding_back.fresh_recogniser().model)


def expected(experiment: Experiment, weights: np.ndarray) -> dict[str, Gained]:
    """By the plain function, in this process."""
    context = InProcess(experiment).plain.training
    return {c.id: personalise_speech(experiment, context, c, weights) for c in experiment.partition.clients[:-1]}


def run(experiment: Experiment, weights: np.ndarray, grid: Any = None) -> Any:
    return personalise_clients(experiment, RemoteNodes(grid or InProcess(experiment)), weights)


def test_gains_are_those_of_the_plain_function_on_any_node(holding_back: Experiment, weights: np.ndarray) -> None:
    plain, last = expected(holding_back, weights), holding_back.partition.clients[-1].id
    for pinned in (False, True):
        (holding_back.checkpoints / "personalisation.json").unlink(missing_ok=True)
        state = run(holding_back, weights, InProcess(holding_back, pinned=pinned))
        assert state.gains == plain
        assert state.failures == {last: "too little speech to hold some back"}
    with (holding_back.run_dir / "personalisation.csv").open() as file:
        rows = {row["client"]: row for row in csv.DictReader(file)}
    assert rows.keys() == plain.keys()
    for name, gained in plain.items():
        assert int(rows[name]["words"]) == gained.words > 0
        assert float(rows[name]["wer_after"]) == pytest.approx(100 * gained.after / gained.words, abs=0.01)

    summary = summarise_gains(holding_back, state_sha256(weights))
    assert summary is not None
    words = sum(gained.words for gained in plain.values())
    assert summary.wer_before == pytest.approx(100 * sum(gained.before for gained in plain.values()) / words)
    assert summary.wer_after == pytest.approx(100 * sum(gained.after for gained in plain.values()) / words)
    assert summary.better + summary.worse <= summary.clients == 4
    assert summary.too_little_speech == 1 and "1 had too little speech" in describe_gains(summary)
    assert summarise_gains(holding_back, "0" * 64) is None, "these are other weights"


def test_what_an_algorithm_sends_in_a_round_is_not_sent(holding_back: Experiment, weights: np.ndarray) -> None:
    scaffold = replace(holding_back.config, algorithm={"_target_": "asr_fed.algorithms.scaffold.Scaffold"})
    assert run(replace(holding_back, config=scaffold), weights).gains == expected(holding_back, weights)


class Stops(InProcess):
    """The process ends when the second order comes."""

    orders = 0

    def answer(self, message: Message) -> Message | None:
        if "arrays" in message.content:
            self.orders += 1
            if self.orders == 2:
                raise Interrupted
        return super().answer(message)


def test_interrupted_it_goes_on_with_those_who_are_left(
    holding_back: Experiment, weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_fed.federation.personalisation.AT_ONCE", 1)
    grid = Stops(holding_back)
    grid.nodes = [1]
    with pytest.raises(Interrupted):
        run(holding_back, weights, grid)
    assert summarise_gains(holding_back, state_sha256(weights)) is None, "it has not come to its end"
    told: list[int] = []
    state = personalise_clients(holding_back, RemoteNodes(InProcess(holding_back)), weights, None, told.append)  # type: ignore[arg-type]
    assert told == [4]
    assert state.gains == expected(holding_back, weights)

    unused = InProcess(holding_back)
    assert run(holding_back, weights, unused).gains == state.gains
    assert unused.pushed == 0, "all is done"
    run(holding_back, weights + np.float32(0.01), other := InProcess(holding_back))
    assert other.pushed > 0, "these are other weights"


class Comes(InProcess):
    """Node 2 comes when node 1 has answered an order."""

    def answer(self, message: Message) -> Message | None:
        if "arrays" in message.content:
            self.nodes = [1, 2]
        return super().answer(message)


def test_a_node_that_comes_later_is_asked_too(holding_back: Experiment, weights: np.ndarray) -> None:
    grid = Comes(holding_back, pinned=True)
    grid.nodes = [1]
    assert run(holding_back, weights, grid).gains == expected(holding_back, weights)


def test_clients_whose_node_was_away_are_asked_when_it_is_resumed(
    holding_back: Experiment, weights: np.ndarray
) -> None:
    grid = InProcess(holding_back, pinned=True)
    roster = join(holding_back, RemoteNodes(grid))  # type: ignore[arg-type]
    grid.nodes = [1]
    state = personalise_clients(holding_back, RemoteNodes(grid), weights, roster)  # type: ignore[arg-type]
    away = {client.id for client in holding_back.partition.clients[1::2]}
    assert {name for name, reason in state.failures.items() if reason == AWAY} == away
    summary = summarise_gains(holding_back, state_sha256(weights))
    assert summary is not None and summary.failures.keys() == away
    asked_before = grid.pushed
    grid.nodes = [1, 2]
    state = run(holding_back, weights, grid)
    assert state.gains == expected(holding_back, weights)
    orders = grid.pushed - asked_before - 2  # queries
    assert orders == 2, "those of node 2; and who has too little speech, at node 1, says so again"


class Lies(InProcess):
    def __init__(self, experiment: Experiment, lie: Callable[[Message], None]) -> None:
        super().__init__(experiment)
        self.lie, self.nodes = lie, [1]

    def answer(self, message: Message) -> Message | None:
        answer = super().answer(message)
        if answer is not None and "gains" in answer.content:
            self.lie(answer)
        return answer


LIES: dict[str, Callable[[Any], None]] = {
    "a client that was not asked for": lambda gains: gains.__setitem__("clients", ["a", "b", "c", "d"]),
    "a client too few": lambda gains: gains.update({key: gains[key][:-1] for key in list(gains)}),
    "a client twice": lambda gains: gains.__setitem__("clients", [gains["clients"][0]] * 4),
    "fewer than no errors": lambda gains: gains.__setitem__("after", [-1, 0, 0, 0]),
    "errors that are no numbers": lambda gains: gains.__setitem__("before", ["1", "2", "3", "4"]),
    "no words": lambda gains: gains.__delitem__("words"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_cannot_be_is_refused(holding_back: Experiment, weights: np.ndarray, name: str) -> None:
    state = run(holding_back, weights, Lies(holding_back, lambda answer: LIES[name](answer.content["gains"])))
    assert not state.gains
    assert len(state.failures) == 5 and all(reason.startswith("refused: ") for reason in state.failures.values())
    assert (holding_back.run_dir / "personalisation.csv").is_file()
