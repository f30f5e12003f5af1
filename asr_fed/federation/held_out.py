"""Training on the server's own speech, after each aggregation."""

from typing import Any

from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.runs.experiment import Experiment
from asr_fed.system.randomness import seed_everything
from asr_fed.training.epoch import train_epoch
from asr_fed.training.optimizer import build_optimizer
from asr_fed.training.task import Task


def train_on_server(experiment: Experiment, training: Task[Any], server_round: int, *, annealing: float) -> None:
    """Train the aggregated model on speech that the server itself holds.

    `annealing` is the clients' learning rate divided by the one they began with.
    """
    config, settings = experiment.config, experiment.config.federation.held_out
    speech: list[Utterance] = [*experiment.partition.held_out]
    speech += experiment.partition.warm_up if settings.replay_warm_up else ()
    if not speech or not settings.epochs:
        return
    lr = settings.lr * (annealing if settings.annealed else 1.0)
    optimizer = build_optimizer(settings.optimizer or config.federation.optimizer, training.model, lr)
    rng = seed_everything(config.seed, "held-out", server_round)
    for _ in range(settings.epochs):
        batches = training_batches(speech, settings.batch, rng)[: settings.steps]
        train_epoch(training, batches, optimizer, rng, clip=config.federation.clip)
