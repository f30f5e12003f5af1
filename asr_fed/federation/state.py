"""Everything that a killed server needs to continue as if it had not been killed."""

import math
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate

from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.robust import Norms
from asr_fed.config.schema import FederationConfig
from asr_fed.model.state import layout, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.training.annealing import NewBob, anneal
from asr_fed.training.averaging import WeightSum
from asr_fed.training.task import Task

VERSION = 2  # of the file


@dataclass(frozen=True)
class FederationState:
    """The federation after round `round`, the last finished one.

    weights, best_weights: float32 [state].
    settled_round: the last round with a gain, or with a return to the best weights.
    prior: what the clients of the last round say of a client's WER; nothing before the first one.
    optimizer, algorithm: the server's state of each.
    loss: the clients' mean training loss in the last round; before the first round, the loss on the server's dev
        speech.
    last: the sum of the last rounds' weights, where `federation.average_last` wants their mean.
    clients, seconds: how many clients the nodes host, and how much training speech these have; before the nodes have
        joined, those of this machine's partition.
    fleet_s: seconds of the simulated fleet's clock; 0 without one.
    past: weights before this round, by how many server steps had been made, that clients are still at work on.
    norms: what is usual for a node's update, by the last rounds (`federation.robust.clip_median`).
    run: names the run, so that clients do not go on from what they keep of another one with the same setup.
    """

    newbob: NewBob
    weights: np.ndarray
    best_weights: np.ndarray
    best_wer: float
    loss: float
    best_round: int = 0
    round: int = 0
    settled_round: int = 0
    prior: Prior = field(default_factory=Prior)
    optimizer: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, np.ndarray] = field(default_factory=dict)
    last: WeightSum = field(default_factory=WeightSum)
    clients: int = 0
    seconds: float = 0.0
    fleet_s: float = 0.0
    past: dict[int, np.ndarray] = field(default_factory=dict)
    norms: list[Norms] = field(default_factory=list)
    run: str = ""
    history: tuple[RoundRecord, ...] = ()

    @property
    def result(self) -> np.ndarray:
        """The resulting weights after the rounds so far, float32 [state]."""
        return self.last.mean() if self.last.count else self.best_weights


def begin(experiment: Experiment, training: Task[Any]) -> FederationState:
    """The state before the first round: the warm start, evaluated on the server's dev speech."""
    config = experiment.config
    weights, dev, clients = read_state(training.model), experiment.partition.dev, experiment.partition.clients
    parts = layout(training.model)
    wer = training.evaluate(dev, "dev").merit
    return FederationState(
        newbob=anneal(NewBob(config.federation.lr), wer, config.federation.annealing),
        weights=weights,
        best_weights=weights,
        best_wer=wer,
        loss=training.mean_loss(dev),
        optimizer=instantiate(config.server).init(weights[: parts.parameters]),
        algorithm=instantiate(config.algorithm).init(parts),
        clients=len(clients),
        seconds=math.fsum(utterance.duration for client in clients for utterance in client.train),
        run=secrets.token_hex(8),
    )


def steer(state: FederationState, wer: float, settings: FederationConfig) -> FederationState:
    """Anneal on the dev WER (percent), keep the best weights, and return to them after too many rounds without gain.

    An extra evaluation of the last round may find the best weights, but changes nothing else: a run with more rounds
    would not have evaluated this round.
    """
    gain = wer < state.best_wer
    if gain:
        state = replace(state, best_wer=wer, best_weights=state.weights, best_round=state.round)
    if state.round % settings.evaluate_every:
        return state
    state = replace(state, newbob=anneal(state.newbob, wer, settings.annealing))
    if gain:
        return replace(state, settled_round=state.round)
    if settings.fallback_after is not None and state.round - state.settled_round >= settings.fallback_after:
        return replace(state, weights=state.best_weights, settled_round=state.round)
    return state


def save_federation(state: FederationState, path: Path) -> None:
    history = [record.to_dict() for record in state.history]
    packed = {"newbob": asdict(state.newbob), "last": vars(state.last), "prior": asdict(state.prior)}
    save_checkpoint({**vars(state), **packed, "history": history, "version": VERSION}, path)


def load_federation(path: Path) -> FederationState:
    """What a killed or finished server left. Raises UserError where another version of asr_fed wrote it."""
    content = load_checkpoint(path)
    if content.pop("version", 1) != VERSION:
        raise UserError(f"{path} was written by another version of asr_fed: finish that run with the version it has.")
    history = tuple(RoundRecord.from_dict(record) for record in content["history"])
    typed = {
        "newbob": NewBob(**content["newbob"]),
        "last": WeightSum(**content.get("last", {})),
        "prior": Prior(**content.get("prior", {})),
    }
    return FederationState(**{**content, **typed, "history": history})
