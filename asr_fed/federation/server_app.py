"""The ServerApp: the rounds of a federation, from the warm start to the best weights."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from hydra.utils import instantiate

from asr_fed.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.config.schema import FederationConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client
from asr_fed.errors import UserError
from asr_fed.evaluation.evaluate import Evaluation, evaluate
from asr_fed.experiment import Experiment, open_experiment, pick_device
from asr_fed.federation.server_optimizer import FlowerOptimizer, ServerOptimizer
from asr_fed.federation.strategy import SumOfUpdates
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.training.annealing import NewBob, anneal
from asr_fed.training.epoch import TrainingContext, train_epoch
from asr_fed.training.optimizer import build_optimizer
from asr_fed.training.randomness import seed_everything
from asr_fed.training.state import layout, load_state, read_state

app = ServerApp()


@dataclass
class FederationState:
    """All that a killed server needs to go on as if it had not been killed; `round` is the last finished one."""

    newbob: NewBob
    weights: np.ndarray
    best_weights: np.ndarray
    best_wer: float
    best_round: int = 0
    round: int = 0
    settled_round: int = 0  # the last one with a gain, or with a return to the best weights
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of Flower: run the federation of the run directory named in the run config."""
    run_federation(open_experiment(str(context.run_config["run-dir"])), grid)


def run_federation(
    experiment: Experiment, grid: Grid, on_round: Callable[[list[dict[str, Any]]], None] = lambda history: None
) -> FederationState:
    """Train from checkpoints/warm_start.pt to checkpoints/federated.pt, over the nodes of `grid`.

    Goes on from checkpoints/federation.pt where that exists. `on_round` is given the history after each round.

    Raises UserError where a round gets no update at all.
    """
    config, settings = experiment.config, experiment.config.federation
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    training = experiment.training_context(recogniser, pick_device(config.device))
    model = recogniser.model
    optimizer = build_server_optimizer(config.server)
    checkpoint = experiment.checkpoints / "federation.pt"

    if checkpoint.is_file():
        state = _load(checkpoint)
        optimizer.load_state_dict(state.optimizer)
    else:
        wer = _judge(experiment, training).wer
        weights = read_state(model)
        state = FederationState(anneal(NewBob(settings.lr), wer, settings.annealing), weights, weights, wer)
    clients = {client.id: client for client in experiment.partition.clients}
    cost = {name: predicted_cost(client, settings) for name, client in clients.items()}
    strategy = SumOfUpdates(cost, settings.cohort, config.seed, layout(model), optimizer)
    while state.round < settings.rounds:
        state.round += 1
        started = time.perf_counter()
        lr = state.newbob.lr
        messages = strategy.configure_train(
            state.round, ArrayRecord({"state": Array(state.weights)}), ConfigRecord({"lr": lr}), grid
        )
        replies = grid.send_and_receive(messages, timeout=settings.round_timeout)
        arrays, metrics = strategy.aggregate_train(state.round, replies)
        traffic = strategy.traffic
        if arrays is None or metrics is None:
            raise UserError(
                f"Round {state.round}: none of {len(traffic.cohort)} clients yielded an update. "
                f"First reasons: {dict(list(traffic.failures.items())[:3])}. The run can be resumed."
            )
        load_state(model, arrays["state"].numpy())
        train_on_server(experiment, training, state.round, annealing=lr / settings.lr)
        state.weights = read_state(model)

        record: dict[str, Any] = {"round": state.round, "lr": lr, **metrics, "failures": traffic.failures}
        record |= {"bytes_down": traffic.bytes_down, "bytes_up": traffic.bytes_up, "wer": None, "cer": None}
        if state.round % settings.evaluate_every == 0 or state.round == settings.rounds:
            judged = _judge(experiment, training)
            record |= {"wer": judged.wer, "cer": judged.cer}
            _note_gain(state, judged.wer, settings)
        record |= {"best_round": state.best_round, "round_seconds": time.perf_counter() - started}
        state.history.append(record)
        state.optimizer = optimizer.state_dict()
        _save(state, checkpoint)
        on_round(state.history)

    load_state(model, state.best_weights)
    save_recogniser(recogniser, experiment.checkpoints / "federated.pt")
    return state


def build_server_optimizer(settings: Any) -> ServerOptimizer:
    """From `server=`: one of Flower's strategies of the FedAvg family, or an object with our own interface."""
    built = instantiate(settings)
    return FlowerOptimizer(built) if isinstance(built, FedAvg) else built


def predicted_cost(client: Client, settings: FederationConfig) -> float:
    """Seconds of audio that a round of this client goes through: training passes and one decoding."""
    seconds = sum(utterance.duration for utterance in client.train)
    passes: float = settings.local_epochs
    if settings.local_steps is not None and client.train:
        passes = settings.local_steps * settings.batch.max_utterances / len(client.train)
    return seconds * passes + sum(utterance.duration for utterance in client.dev or client.train)


def train_on_server(experiment: Experiment, training: TrainingContext, server_round: int, *, annealing: float) -> None:
    """Train the aggregated model on speech that the server itself holds.

    `annealing` is the clients' learning rate over the one they began with.
    """
    config, settings = experiment.config, experiment.config.federation.held_out
    speech: list[Utterance] = [*experiment.partition.held_out]
    speech += experiment.partition.warm_up if settings.replay_warm_up else ()
    if not speech or not settings.epochs:
        return
    lr = settings.lr * (annealing if settings.annealed else 1.0)
    optimizer = build_optimizer(config.federation.optimizer, training.recogniser.model, lr)
    rng = seed_everything(config.seed, "held-out", server_round)
    for _ in range(settings.epochs):
        train_epoch(
            training, training_batches(speech, settings.batch, rng), optimizer, rng, clip=config.federation.clip
        )


def _judge(experiment: Experiment, training: TrainingContext) -> Evaluation:
    settings = experiment.config.evaluation
    return evaluate(
        training.recogniser, experiment.partition.dev, training.cache, settings.dev_decoder, settings, training.device
    )


def _note_gain(state: FederationState, wer: float, settings: FederationConfig) -> None:
    """Anneal on the WER, keep the best weights, and go back to them after too long without gain."""
    if state.round % settings.evaluate_every == 0:  # a last round between two evaluations does not steer
        state.newbob = anneal(state.newbob, wer, settings.annealing)
    if wer < state.best_wer:
        state.best_wer, state.best_weights = wer, state.weights
        state.best_round = state.settled_round = state.round
    elif settings.fallback_after is not None and state.round - state.settled_round >= settings.fallback_after:
        state.weights, state.settled_round = state.best_weights, state.round


def _save(state: FederationState, path: Path) -> None:
    save_checkpoint({**vars(state), "newbob": asdict(state.newbob)}, path)


def _load(path: Path) -> FederationState:
    content = load_checkpoint(path)
    return FederationState(**{**content, "newbob": NewBob(**content["newbob"])})
