"""One epoch of gradient steps: the same for warm start, central training, held-out training and clients."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from asr_fed.config.schema import AugmentConfig, LossConfig, Precision
from asr_fed.data.alignable import alignable
from asr_fed.data.batching import collate
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.model.recogniser import Recogniser
from asr_fed.model.state import frozen_modules
from asr_fed.training.augment import spec_augment
from asr_fed.training.optimizer import set_lr
from asr_fed.training.pauses import draw_pauses


@dataclass(frozen=True)
class TrainingContext:
    """What every kind of training shares."""

    recogniser: Recogniser
    cache: FeatureCache
    augment: AugmentConfig
    loss: LossConfig
    precision: Precision
    device: torch.device


@dataclass
class EpochResult:
    """Sums over the utterances trained on; `skipped` steps had a loss or gradient that was not finite."""

    loss_sum: float = 0.0
    utterances: int = 0
    steps: int = 0
    skipped: int = 0

    @property
    def loss(self) -> float:
        """Mean over utterances; NaN where no step had a finite loss, so that it cannot pass for a perfect one."""
        return self.loss_sum / self.utterances if self.utterances else math.nan


def train_epoch(
    context: TrainingContext,
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
        rng: draws the playback speed of each utterance, and pauses.
        clip: largest norm of the gradient.
        penalty: a term to add to the loss, such as FedProx's.
        lr: the learning rate of this epoch's n-th step, from 0; None leaves the optimizer's as it is.
        adjust: changes the clipped gradients in place before each step, such as by SCAFFOLD's control variates.
        frozen: parts of the model that stay as they are in recognition, as those that are not trainable do: no dropout,
            no statistics of the batch.
    """
    model, device = context.recogniser.model, context.device
    speeds = list(context.augment.speeds)
    fits = alignable(context.cache, context.recogniser.tokenizer, model.encoder.stride)
    still = (*frozen, *frozen_modules(model))
    result = EpochResult()
    for chunk in batches:
        model.train()
        for module in still:
            module.eval()
        if lr is not None:
            set_lr(optimizer, lr(result.steps))
        drawn = [float(speed) for speed in rng.choice(speeds, size=len(chunk))]
        if context.loss.ctc_weight > 0:  # what fits at its own pace may not at a faster one
            pairs = zip(chunk, drawn, strict=True)
            drawn = [speed if fits(utterance, speed) else 1.0 for utterance, speed in pairs]
        pauses = draw_pauses(context.augment, context.recogniser.features.hop_ms, rng)
        batch = collate(chunk, context.cache, context.recogniser.tokenizer, drawn, pauses).to(device)
        features = spec_augment(model.normalise(batch.features), context.augment)
        with torch.autocast(device.type, torch.bfloat16, enabled=context.precision is Precision.bf16):
            loss = model.loss(features, batch, context.loss, with_ctc=with_ctc)
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
