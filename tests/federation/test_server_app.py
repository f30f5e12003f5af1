"""The rounds, over a grid in this process: annealing, best weights, fallback, held-out training, resuming."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from asr_fed.errors import UserError
from asr_fed.experiment import Experiment
from asr_fed.federation.client_app import Node, train_clients
from asr_fed.federation.flower_private import identify_process
from asr_fed.federation.messages import read_order, reply_message
from asr_fed.federation.server_app import FederationState, predicted_cost, run_federation
from asr_fed.federation.weighting import Uniform
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.training.annealing import NewBob, anneal
from asr_fed.training.local import ClientResult
from asr_fed.training.state import read_state
from tests.tiny import Corpus, settings, typed_config


class Interrupted(Exception):
    pass


class InProcess:
    """Two nodes in this process."""

    def __init__(self, experiment: Experiment, weighting: Callable[[ClientResult], float] | None = None) -> None:
        identify_process(run_id=1, node_id=0)
        context = experiment.training_context(experiment.fresh_recogniser(), torch.device("cpu"))
        clients = {client.id: client for client in experiment.partition.clients}
        self.node = Node(experiment, context, weighting or Uniform(), clients)
        self.rates: list[float] = []

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        self.rates.append(read_order(messages[0]).lr)
        return [reply_message(message, *train_clients(self.node, read_order(message))) for message in messages]


@pytest.fixture
def make(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """The session's experiment with other settings and a run directory of its own."""

    def changed(*changes: str, name: str = "run") -> Experiment:
        config = typed_config(settings(corpus, prepared, tmp_path / name), "federation.cohort=2", *changes)
        own = replace(experiment, config=config, run_dir=tmp_path / name)
        save_recogniser(own.fresh_recogniser(), own.checkpoints / "warm_start.pt")
        return own

    return changed


def run(experiment: Experiment, **more: Any) -> FederationState:
    return run_federation(experiment, InProcess(experiment), **more)  # type: ignore[arg-type]


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in ("train_seconds", "round_seconds")} for record in history]


def best(experiment: Experiment) -> bytes:
    return read_state(load_recogniser(experiment.checkpoints / "federated.pt").model).tobytes()


def test_the_rate_that_clients_get_follows_the_dev_wer(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=5", "federation.annealing.factor=0.5")
    grid = InProcess(experiment)
    state = run_federation(experiment, grid, lambda history: None)  # type: ignore[arg-type]
    still = make("federation.rounds=0", name="still")
    schedule = anneal(NewBob(0.1), run(still).best_wer, experiment.config.federation.annealing)
    for record, rate in zip(state.history, grid.rates, strict=True):
        assert record["lr"] == rate == schedule.lr
        schedule = anneal(schedule, record["wer"], experiment.config.federation.annealing)
    assert len(set(grid.rates)) > 1, "the test needs a WER that stands still at times"


def test_the_best_round_is_kept(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=4")
    state = run(experiment)
    wers = [record["wer"] for record in state.history]
    assert state.best_wer <= min(wers)
    if state.best_round:
        assert state.best_wer == wers[state.best_round - 1] == min(wers)
    assert best(experiment) == state.best_weights.tobytes()


SERVERS = {
    "FedAdam": ["server={_target_: flwr.serverapp.strategy.FedAdam, eta: 0.01}"],
    "Lamb": ["server={_target_: asr_fed.federation.server_optimizer.Lamb}", "federation.fallback_after=1"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_interrupted_after_every_round_it_ends_in_the_same_bits(make: Callable[..., Experiment], name: str) -> None:
    straight = make(*SERVERS[name], name="straight")
    expected = run(straight)

    def interrupt(history: list[dict[str, Any]]) -> None:
        raise Interrupted

    experiment = make(*SERVERS[name], name="resumed")
    for _ in range(experiment.config.federation.rounds):
        with pytest.raises(Interrupted):
            run(experiment, on_round=interrupt)
    state = run(experiment, on_round=interrupt)
    assert untimed(state.history) == untimed(expected.history) and len(state.history) == 3
    assert state.weights.tobytes() == expected.weights.tobytes()
    assert best(experiment) == best(straight)


def test_without_gain_the_best_weights_return(make: Callable[..., Experiment]) -> None:
    """A learning rate of almost nothing gains nothing; what moves are BatchNorm's statistics."""
    idle = ("federation.lr=1e-9", "federation.held_out.epochs=0", "federation.rounds=2")
    experiment = make(*idle, "federation.fallback_after=2", name="fallback")
    start = read_state(load_recogniser(experiment.checkpoints / "warm_start.pt").model).tobytes()
    assert run(experiment).weights.tobytes() == start
    assert run(make(*idle, name="no fallback")).weights.tobytes() != start


def test_the_server_trains_on_what_it_holds(make: Callable[..., Experiment]) -> None:
    once = ("federation.rounds=1",)
    states = {
        run(make(*once, *changes, name=str(number))).weights.tobytes()
        for number, changes in enumerate(
            (
                ("federation.held_out.epochs=0",),
                ("federation.held_out.epochs=1",),
                ("federation.held_out.epochs=2",),
                ("federation.held_out.epochs=1", "federation.held_out.lr=0.1"),
                ("federation.held_out.epochs=1", "federation.held_out.replay_warm_up=true"),
            )
        )
    }
    assert len(states) == 5


def test_evaluation_is_as_rare_as_told_but_never_misses_the_end(make: Callable[..., Experiment]) -> None:
    state = run(make("federation.rounds=3", "federation.evaluate_every=2"))
    assert [record["wer"] is not None for record in state.history] == [False, True, True]


def test_a_round_without_any_update_stops_the_run_by_name_and_can_be_resumed(
    make: Callable[..., Experiment],
) -> None:
    experiment = make()
    broken = InProcess(experiment, weighting=lambda result: float("nan"))
    with pytest.raises(UserError, match=r"Round 1: none of 2 clients .*a weight of nan"):
        run_federation(experiment, broken)  # type: ignore[arg-type]
    assert len(run(experiment).history) == 3


def test_the_predicted_cost_is_seconds_of_audio(experiment: Experiment) -> None:
    client = max(experiment.partition.clients, key=lambda client: len(client.train))
    config = experiment.config.federation
    seconds = sum(utterance.duration for utterance in client.train)
    assert predicted_cost(client, replace(config, local_epochs=3)) == pytest.approx(3 * seconds + seconds)
    # 5 steps of 4 utterances are two passes over ten
    assert predicted_cost(client, replace(config, local_steps=5)) == pytest.approx(2 * seconds + seconds)
