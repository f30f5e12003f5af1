"""From utterances to padded batches, by count or by seconds of audio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from asr_fed.config.schema import BatchConfig
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.data.tokenizer import Tokenizer

# Utterances are shuffled, then sorted by length within pools of this many batches. So there is little padding, and
# batches differ from epoch to epoch.
POOL_BATCHES = 16
# Frames of an utterance, float32 [frames, width], and the features of digital silence in it, [width] -> new frames.
Augment = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Padded tensors of some utterances.

    features: float32 [batch, frames, width], zero-padded; frames: int64 [batch];
    tokens: int64 [batch, tokens], zero-padded; token_counts: int64 [batch].
    """

    utterances: tuple[Utterance, ...]
    features: torch.Tensor
    frames: torch.Tensor
    tokens: torch.Tensor
    token_counts: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        tensors = (self.features, self.frames, self.tokens, self.token_counts)
        return Batch(self.utterances, *(tensor.to(device, non_blocking=device.type == "cuda") for tensor in tensors))


def collate(
    utterances: Sequence[Utterance],
    cache: FeatureCache,
    tokenizer: Tokenizer,
    speeds: Sequence[float] | None = None,
    augment: Augment | None = None,
) -> Batch:
    """Read the frames of `utterances` (each at its speed in `speeds`, default 1.0) and pad them to one batch.

    Args:
        augment: changes each utterance's frames before they are padded.
    """
    matrices = []
    for utterance, speed in zip(utterances, speeds or [1.0] * len(utterances), strict=True):
        frames = cache[utterance.id, speed].astype(np.float32)
        if augment is not None:
            frames = augment(frames, cache.silence(utterance.id, speed).astype(np.float32))
        matrices.append(torch.from_numpy(frames))
    tokens = [torch.tensor(tokenizer.encode(utterance.text), dtype=torch.int64) for utterance in utterances]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(
        utterances=tuple(utterances),
        features=pad(matrices, batch_first=True),
        frames=torch.tensor([len(matrix) for matrix in matrices]),
        tokens=pad(tokens, batch_first=True),
        token_counts=torch.tensor([len(sequence) for sequence in tokens]),
    )


def training_batches(
    utterances: Sequence[Utterance], config: BatchConfig, rng: np.random.Generator
) -> list[list[Utterance]]:
    """One epoch: every utterance once, in shuffled batches of similar lengths."""
    shuffled = [utterances[index] for index in rng.permutation(len(utterances))]
    pool = config.max_utterances * POOL_BATCHES
    batches = []
    for start in range(0, len(shuffled), pool):
        batches += consecutive_batches(sorted(shuffled[start : start + pool], key=lambda u: u.duration), config)
    return [batches[index] for index in rng.permutation(len(batches))]


def evaluation_batches(utterances: Sequence[Utterance], config: BatchConfig) -> list[list[Utterance]]:
    """Every utterance once, sorted by length."""
    return consecutive_batches(sorted(utterances, key=lambda u: (u.duration, u.id)), config)


def consecutive_batches(utterances: Sequence[Utterance], config: BatchConfig) -> list[list[Utterance]]:
    """Cut a sequence where a batch would exceed `max_utterances` or, padded, `max_seconds`."""
    batches: list[list[Utterance]] = []
    longest = 0.0
    for utterance in utterances:
        longest = max(longest, utterance.duration)
        full = not batches or len(batches[-1]) == config.max_utterances
        if full or (config.max_seconds is not None and longest * (len(batches[-1]) + 1) > config.max_seconds):
            batches.append([])
            longest = utterance.duration
        batches[-1].append(utterance)
    return batches
