"""Pauses before and after training utterances: real recordings have them, corpora of short clips do not."""

from functools import partial

import numpy as np

from asr_fed.config.schema import AugmentConfig
from asr_fed.data.batching import Augment

NOISE_FRAMES = 10  # consecutive frames: the quietest such stretch of an utterance is taken as its noise


def draw_pauses(config: AugmentConfig, hop_ms: float, rng: np.random.Generator) -> Augment | None:
    """The change to the utterances of the next batch. A share of the batches gets pauses; for the others it is None.

    All pauses of a batch have the same length, because the longest utterance determines the length of the batch.
    """
    if not config.pauses or rng.random() >= config.pauses:
        return None
    longest = round(1000 * config.pause_seconds / hop_ms)
    before, after = rng.integers(longest, size=2, endpoint=True)
    return partial(with_pauses, before=before, after=after, rng=rng)


def with_pauses(
    frames: np.ndarray, silence: np.ndarray, before: int, after: int, rng: np.random.Generator
) -> np.ndarray:
    """`frames` [frames, n_mels] between two pauses of so many frames.

    A third of the pauses is digital silence (`silence`, [n_mels]); a third is the noise of the utterance's own quietest
    stretch, with its frames in random order; the last third lies between the two, at one fraction in dB.
    """
    noise = quietest_frames(frames)

    def pause(length: int) -> np.ndarray:
        level = np.float32(np.clip(rng.uniform(-1, 2), 0, 1))
        levelled: np.ndarray = silence + level * (noise[rng.integers(len(noise), size=length)] - silence)
        return levelled

    return np.concatenate([pause(before), frames, pause(after)])


def quietest_frames(frames: np.ndarray) -> np.ndarray:
    """The NOISE_FRAMES neighbours whose mean is the lowest."""
    count = min(NOISE_FRAMES, len(frames))
    levels = np.convolve(frames.mean(axis=1), np.ones(count), "valid")
    start = int(levels.argmin())
    return frames[start : start + count]
