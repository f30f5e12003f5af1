"""Local training without messages: what every engine's result is compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from asr_fed.aggregation.update import Update
from asr_fed.aggregation.weighting import WerSoftmax
from asr_fed.data.partition import Client
from asr_fed.federation.client_app import Contribution, personalise_speech, train_clients, train_speech
from asr_fed.runs.experiment import Experiment
from asr_fed.training.epoch import TrainingContext
from asr_fed.training.local import ClientResult
from asr_fed.wire.messages import Gained, Order


@dataclass
class PlainNode:
    experiment: Experiment
    training: TrainingContext
    weighting: Callable[[ClientResult], float]
    clients: dict[str, Client]

    @classmethod
    def of(cls, experiment: Experiment, weighting: Callable[[ClientResult], float] | None = None) -> "PlainNode":
        training = experiment.training_context(experiment.fresh_recogniser(), torch.device("cpu"))
        clients = {client.id: client for client in experiment.partition.clients}
        return cls(experiment, training, weighting or WerSoftmax(), clients)

    def train(self, name: str, order: Order) -> Contribution:
        return train_speech(self.experiment, self.training, self.weighting, self.clients[name], order)

    def personalise(self, name: str, order: Order) -> Gained:
        return personalise_speech(self.experiment, self.training, self.clients[name], order.weights)

    def update(self, order: Order) -> tuple[Update, dict[str, str]]:
        return train_clients(self.train, order)


def content(update: Update) -> tuple:
    """All of an update that does not depend on the clock."""
    totals = {name: value for name, value in update.totals.items() if name != "train_milliseconds"}
    return update.sums.tobytes(), update.weight, update.peak, totals
