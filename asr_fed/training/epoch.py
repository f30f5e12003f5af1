"""One epoch of gradient steps: the same for warm start, central training, held-out training and clients."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from asr_fed.config.schema import Precision
from asr_fed.data.manifest import Utterance
from asr_fed.model.state import frozen_modules
from asr_fed.training.optimizer import set_lr
from asr_fed.training.task import Task


@dataclass
class EpochResult:
    """Sums over the training utterances; `skipped` steps had a loss or gradient that was not finite."""

    loss_sum: float = 0.0
    utterances: int = 0
    steps: int = 0
    skipped: int = 0

    @property
    def loss(self) -> float:
        """Mean over utterances; NaN if no step had a finite loss, so that it does not look like a perfect loss."""
        return self.loss_sum / self.utterances if self.utterances else math.nan


def train_epoch(
    task: Task[Any],
    batches: Iterable[Sequence[Utterance]],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    *,
    clip: float,
    with_ctc: bool = True,
    penalty: Callable[[nn.Module], torch.Tensor] | None = None,
    lr: Callable[[int], float] | None = None,
    frozen: Sequence[nn.Module] = (),
    adjust: Callable[[nn.Module], None] | None = None,
) -> EpochResult:
    """Train on `batches`.

    Args:
        rng: draws what the task leaves to chance, such as the playback speed of each utterance.
        clip: largest norm of the gradient.
        penalty: a term to add to the loss, such as FedProx's.
        lr: the learning rate of this epoch's n-th step, from 0; None leaves the optimizer's as it is.
        adjust: changes the clipped gradients in place before each step; SCAFFOLD adds its control variates so.
        frozen: parts of the model that run as in recognition, without dropout and batch statistics. Parts that are not
            trainable do so anyway.
    """
    model = task.model
    still = (*frozen, *frozen_modules(model))
    result = EpochResult()
    for chunk in batches:
        model.train()
        for module in still:
            module.eval()
        if lr is not None:
            set_lr(optimizer, lr(result.steps))
        batch = task.collate(chunk, rng)
        with torch.autocast(task.device.type, torch.bfloat16, enabled=task.precision is Precision.bf16):
            loss = task.loss(batch, with_ctc=with_ctc)
        result.steps += 1
        value = loss.item()
        if not math.isfinite(value):
            result.skipped += 1
            continue
        result.loss_sum += value * len(chunk)
        result.utterances += len(chunk)
        if penalty is not None:
            loss = loss + penalty(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        if torch.isfinite(norm):
            if adjust is not None:
                adjust(model)
            optimizer.step()
        else:
            result.skipped += 1
    return result
