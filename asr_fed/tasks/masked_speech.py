"""Pre-training on speech alone: guess what is masked, measured in held-out loss and in the share of guesses that are
right. asr_fed.model.best_rq and asr_fed.model.contrastive say what is guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr_fed.config.schema import AugmentConfig, BatchConfig, EvaluationConfig, Precision
from asr_fed.data.batching import evaluation_batches
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.state_variance import StateVariance
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.model.best_rq import BestRq
from asr_fed.model.contrastive import Contrastive
from asr_fed.model.pretrainer import Pretrainer
from asr_fed.system.randomness import generator
from asr_fed.training.task import Place

NOISE = 0.1  # standard deviation of what stands where normalised features are masked, as in the paper


@dataclass(frozen=True)
class MaskedBatch:
    """Normalised features, float32 [batch, frames, n_mels], as they are and as the encoder sees them.

    frames: int64 [batch]; mask: bool [batch, states], within each utterance.
    """

    clean: torch.Tensor
    masked: torch.Tensor
    frames: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Guessed:
    """Sums over masked states."""

    masked: int = 0
    wrong: int = 0
    loss_sum: float = 0.0

    @property
    def errors(self) -> ErrorCounts:
        return ErrorCounts(substitutions=self.wrong, units=self.masked)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.masked)

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 - self.errors.percent

    @property
    def merit(self) -> float:
        return self.loss

    @property
    def numbers(self) -> dict[str, float]:
        return {"dev_loss": self.loss, "accuracy": self.accuracy}


@dataclass(frozen=True)
class MaskedSpeech:
    """A `Task` (asr_fed.training.task). `augment` gives the playback speeds; masks take the place of all else in it."""

    pretrainer: Pretrainer
    cache: FeatureCache
    augment: AugmentConfig
    evaluation: EvaluationConfig
    precision: Precision
    device: torch.device

    @property
    def model(self) -> BestRq | Contrastive:
        return self.pretrainer.model

    def collate(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> MaskedBatch:
        speeds = rng.choice(list(self.augment.speeds), size=len(utterances))
        drawn = [(float(speed), rng) for speed in speeds]
        return self._batch(utterances, drawn)

    def loss(self, batch: MaskedBatch, *, with_ctc: bool) -> torch.Tensor:
        """The mean over masked states."""
        return functional.cross_entropy(*self.model.guess(batch.masked, batch.clean, batch.frames, batch.mask))

    @torch.no_grad()
    def evaluate(self, utterances: Sequence[Utterance], place: Place) -> Guessed:
        """The same masks at each evaluation."""
        self.model.eval()
        masked, wrong, loss_sum = 0, 0, 0.0
        for batch in self._evaluation_batches(utterances):
            logits, right = self.model.guess(batch.masked, batch.clean, batch.frames, batch.mask)
            masked += len(right)
            wrong += int((logits.argmax(-1) != right).sum())
            loss_sum += float(functional.cross_entropy(logits, right, reduction="sum"))
        return Guessed(masked, wrong, loss_sum)

    @torch.no_grad()
    def state_variance(self, utterances: Sequence[Utterance]) -> StateVariance:
        """Of the encoder's states of whole utterances, of which nothing is masked."""
        self.model.eval()
        found = StateVariance()
        for batch in self._evaluation_batches(utterances):
            states, _ = self.model.encoder(batch.clean, batch.frames)
            for own, frames in zip(states, batch.frames.tolist(), strict=True):
                found.add(own[: -(-frames // self.model.encoder.stride)].cpu().double().numpy())
        return found

    def mean_loss(self, utterances: Sequence[Utterance]) -> float:
        return self.evaluate(utterances, "dev").loss

    def _evaluation_batches(self, utterances: Sequence[Utterance]) -> Iterator[MaskedBatch]:
        limits = BatchConfig(max_utterances=64, max_seconds=self.evaluation.max_seconds_per_batch)
        for chunk in evaluation_batches(utterances, limits):
            yield self._batch(chunk, [(1.0, generator(self.pretrainer.seed, "mask", u.id)) for u in chunk])

    def _batch(
        self, utterances: Sequence[Utterance], drawn: Sequence[tuple[float, np.random.Generator]]
    ) -> MaskedBatch:
        """`drawn`: for each utterance its playback speed, and what draws its masks and the noise in them."""
        task, stride = self.pretrainer.task, self.model.encoder.stride
        span = max(1, round(task.mask_ms / self.pretrainer.features.hop_ms / stride))
        clean, masks, noises = [], [], []
        for utterance, (speed, rng) in zip(utterances, drawn, strict=True):
            frames = torch.from_numpy(self.cache[utterance.id, speed].astype(np.float32))
            clean.append(frames)
            states = -(-len(frames) // stride)
            masks.append(torch.from_numpy(draw_mask(states, task.mask_probability * stride, span, rng)))
            noises.append(torch.from_numpy(rng.normal(0, NOISE, frames.shape).astype(np.float32)))
        counts = torch.tensor([len(frames) for frames in clean], device=self.device)
        mask = pad_sequence(masks, batch_first=True).to(self.device)
        features = self.model.normalise(pad_sequence(clean, batch_first=True).to(self.device))
        hidden = mask.repeat_interleave(stride, dim=1)[:, : features.shape[1], None]
        noise = pad_sequence(noises, batch_first=True).to(self.device)
        real = torch.arange(features.shape[1], device=self.device) < counts[:, None]
        features = features * real[:, :, None]  # so that what is to be guessed at the end does not depend on the batch
        return MaskedBatch(features, torch.where(hidden, noise, features), counts, mask)


def draw_mask(states: int, probability: float, span: int, rng: np.random.Generator) -> np.ndarray:
    """bool [states]: `span` of them from where a mask begins, at each with this probability and at one at least."""
    begins = rng.random(states) < probability
    if not begins.any():
        begins[rng.integers(states)] = True
    reach = np.convolve(begins, np.ones(span))[:states]
    mask: np.ndarray = reach > 0.5
    return mask
