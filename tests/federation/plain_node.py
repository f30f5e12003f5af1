"""Local training without messages: what every engine's result is compared with."""

from dataclasses import dataclass

import torch
from hydra.utils import instantiate

from asr_fed.aggregation.update import Update
from asr_fed.aggregation.weighting import Weighting, WerSoftmax
from asr_fed.algorithms.algorithm import Algorithm
from asr_fed.data.partition import Client
from asr_fed.federation.client_app import (
    Contribution,
    Shape,
    personalise_speech,
    shape_of,
    train_clients,
    train_speech,
    without_weights,
)
from asr_fed.federation.client_store import ClientStore
from asr_fed.model.tuning import is_partial
from asr_fed.runs.experiment import Experiment
from asr_fed.tasks.masked_speech import MaskedSpeech
from asr_fed.tasks.recognition import Recognition
from asr_fed.wire.messages import Gained, Order


@dataclass
class PlainNode:
    experiment: Experiment
    training: Recognition | MaskedSpeech
    weighting: Weighting
    clients: dict[str, Client]
    algorithm: Algorithm
    store: ClientStore

    @classmethod
    def of(cls, experiment: Experiment, weighting: Weighting | None = None) -> "PlainNode":
        partial = is_partial(experiment.config.federation)
        learner = without_weights(experiment) if partial else experiment.fresh_learner()
        training = experiment.task(learner, torch.device("cpu"))
        clients = {client.id: client for client in experiment.partition.clients}
        store = ClientStore(experiment.run_dir / "clients")
        return cls(
            experiment, training, weighting or WerSoftmax(), clients, instantiate(experiment.config.algorithm), store
        )

    @property
    def shape(self) -> Shape:
        return shape_of(self.algorithm, self.training.model)

    def train(self, name: str, order: Order) -> Contribution:
        client = self.clients[name]
        return train_speech(self.experiment, self.training, self.algorithm, self.weighting, client, order, self.store)

    def personalise(self, name: str, order: Order) -> Gained:
        return personalise_speech(self.experiment, self.training, self.clients[name], order.weights)

    def update(self, order: Order) -> tuple[Update, dict[str, str]]:
        return train_clients(self.train, order, self.shape)


def content(update: Update) -> tuple:
    """All of an update that does not depend on the clock."""
    totals = {name: value for name, value in update.totals.items() if name != "train_milliseconds"}
    return {name: (each.values.tobytes(), each.weight, each.peak) for name, each in update.sums.items()}, totals
