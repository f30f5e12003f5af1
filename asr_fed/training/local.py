"""Local training of one client, the function that every engine calls."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_fed.config.schema import FederationConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.model.state import load_state, read_delta, trainable
from asr_fed.system.randomness import seed_everything
from asr_fed.training.epoch import EpochResult, train_epoch
from asr_fed.training.optimizer import build_optimizer, set_lr
from asr_fed.training.task import Task

# A term of the loss, computed from the model and from the global values of its trainable parameters.
Penalty = Callable[[nn.Module, list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class LocalTask:
    """All that a client's local training depends on.

    context: what is learned.
    weights: the global ones, float32 [state].
    reference_loss: about the loss that clients have now, the same for all.
    measured_on: the speech that its errors are counted on; None: the client's own dev part, or its training part where
        it has no dev.
    most_steps: it ends after so many optimizer steps, where that is less than the settings ask for.
    """

    context: Task[Any]
    client: Client
    weights: np.ndarray
    lr: float
    server_round: int
    seed: int
    settings: FederationConfig
    most_steps: int | None = None
    reference_loss: float = 0.0
    measured_on: Sequence[Utterance] | None = None


@dataclass(frozen=True)
class ClientResult:
    """The result of a client's training. Only `delta`, and numbers derived from the rest, leave the client.

    delta: float32 [state], local state minus global state.
    loss: mean training loss of the last local epoch.
    errors: the task's, word errors for instance, after training, on what the task says (`LocalTask.measured_on`).
    steps: optimizer steps that were made.
    optimizer_state: the `state_dict` of the optimizer afterwards.
    """

    delta: np.ndarray
    num_examples: int
    loss: float
    errors: ErrorCounts
    audio_seconds: float
    train_seconds: float
    skipped_steps: int
    steps: int = 0
    optimizer_state: Mapping[str, Any] = field(default_factory=dict)


def train_client(
    task: LocalTask,
    *,
    penalty: Penalty | None = None,
    adjust: Callable[[nn.Module], None] | None = None,
    optimizer_state: Mapping[str, Any] | None = None,
) -> ClientResult:
    """Train from the global weights on the client's own speech.

    The result depends on the arguments only, not on clients trained earlier in this process.

    Args:
        penalty: added to the loss of each step.
        adjust: changes the gradients of each step in place after they were clipped.
        optimizer_state: the `state_dict` that the optimizer begins with, except for the learning rate.
    """
    started = time.perf_counter()
    client, config = task.client, task.settings
    model = task.context.model
    load_state(model, task.weights)
    rng = seed_everything(task.seed, "client", task.server_round, client.id)
    optimizer = build_optimizer(config.optimizer, model, task.lr)
    if optimizer_state is not None:
        optimizer.load_state_dict(dict(optimizer_state))
        set_lr(optimizer, task.lr)
    anchored = None if penalty is None else _anchor(penalty, model)
    made, audio, last = EpochResult(), 0.0, EpochResult()
    for epoch, batches in enumerate(_epochs(client, config, rng, task.most_steps)):
        last = train_epoch(
            task.context,
            batches,
            optimizer,
            rng,
            clip=config.clip,
            frozen=batch_norms(model) if config.freeze_batch_norm else (),
            with_ctc=config.ctc_epochs is None or epoch < config.ctc_epochs,
            penalty=anchored,
            adjust=adjust,
        )
        made.steps += last.steps
        made.skipped += last.skipped
        audio += sum(utterance.duration for batch in batches for utterance in batch)

    delta = read_delta(model, task.weights)
    own = client.dev or client.train
    evaluated = task.context.evaluate(own if task.measured_on is None else task.measured_on, "client")
    return ClientResult(
        delta=delta,
        num_examples=len(client.train),
        loss=last.loss,
        errors=evaluated.errors,
        audio_seconds=audio,
        train_seconds=time.perf_counter() - started,
        skipped_steps=made.skipped,
        steps=made.steps - made.skipped,
        optimizer_state=optimizer.state_dict(),
    )


def mean_gradient(task: LocalTask, most: int | None = None) -> np.ndarray:
    """The gradient at the global weights, float32 [parameters]: the mean over the batches of the client's speech.

    Batches are augmented and gradients clipped as in training. At most `most` batches are used; None: all.
    """
    context, config = task.context, task.settings
    model = context.model
    load_state(model, task.weights)
    rng = seed_everything(task.seed, "gradient", task.server_round, task.client.id)
    summed = [torch.zeros_like(parameter) for parameter in trainable(model)]

    def add(model: nn.Module) -> None:
        for total, parameter in zip(summed, trainable(model), strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad)

    still = torch.optim.SGD(trainable(model), lr=0.0)
    frozen = batch_norms(model) if config.freeze_batch_norm else ()
    batches = training_batches(task.client.train, config.batch, rng)[:most]
    with_ctc = config.ctc_epochs != 0  # of the loss that the client's first step will have
    made = train_epoch(context, batches, still, rng, clip=config.clip, frozen=frozen, with_ctc=with_ctc, adjust=add)
    counted = max(1, made.steps - made.skipped)
    mean: np.ndarray = torch.cat([total.reshape(-1) for total in summed]).div_(counted).float().cpu().numpy()
    return mean


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Frozen, they normalise by their running statistics, in training as in recognition: FixBN (arXiv 2303.06530).

    The paper freezes the statistics from some round on; here they come from the warm start. Scale and shift are always
    trained.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _anchor(penalty: Penalty, model: nn.Module) -> Callable[[nn.Module], torch.Tensor]:
    """The penalty with the trainable parameters as they are now."""
    anchors = [parameter.detach().clone() for parameter in trainable(model)]
    return lambda model: penalty(model, anchors)


def _epochs(
    client: Client, config: FederationConfig, rng: np.random.Generator, most_steps: int | None
) -> Iterator[list[list[Utterance]]]:
    """The batches of each local epoch: `local_epochs` whole ones, or as many as hold `local_steps` steps.

    Of either the first `most_steps`.
    """
    left = config.local_steps
    if most_steps is not None:
        left = most_steps if left is None else min(left, most_steps)
    epochs = itertools.count() if config.local_steps is not None else range(config.local_epochs)
    for _ in epochs:
        if left is not None and left <= 0:
            return
        batches = training_batches(client.train, config.batch, rng)[:left]
        left = None if left is None else left - len(batches)
        yield batches
