"""Pauses before and after training utterances: real recordings have them, corpora of short clips do not."""

from functools import partial

import numpy as np
from scipy.signal import fftconvolve

from asr_fed.config.schema import AugmentConfig, FeatureConfig, FeatureKind
from asr_fed.data.batching import Augment

NOISE_FRAMES = 10  # consecutive frames: the quietest such stretch of an utterance is taken as its noise
NOISE_SECONDS = 0.1  # the same of a waveform


def draw_pauses(config: AugmentConfig, features: FeatureConfig, rng: np.random.Generator) -> Augment | None:
    """The change to the utterances of the next batch. A share of the batches gets pauses; for the others it is None.

    All pauses of a batch have the same length, because the longest utterance determines the length of the batch.
    """
    if not config.pauses or rng.random() >= config.pauses:
        return None
    longest = round(1000 * config.pause_seconds / features.frame_ms)
    before, after = rng.integers(longest, size=2, endpoint=True)
    if features.kind is FeatureKind.waveform:
        stretch = round(NOISE_SECONDS * features.sample_rate)
        return partial(with_waveform_pauses, before=before, after=after, rng=rng, stretch=stretch)
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
        levelled: np.ndarray = silence + _level(rng) * (noise[rng.integers(len(noise), size=length)] - silence)
        return levelled

    return np.concatenate([pause(before), frames, pause(after)])


def with_waveform_pauses(
    samples: np.ndarray, silence: np.ndarray, before: int, after: int, rng: np.random.Generator, stretch: int
) -> np.ndarray:
    """The same for `samples` [samples, 1]: noise has the level and the spectrum of the quietest `stretch` of them."""
    noise = quietest_samples(samples[:, 0], stretch)

    def pause(length: int) -> np.ndarray:
        white = rng.standard_normal(length + len(noise) - 1)
        coloured = fftconvolve(white, noise, mode="valid") / np.sqrt(len(noise))
        levelled: np.ndarray = silence + _level(rng) * coloured[:, None]
        return levelled.astype(np.float32)

    return np.concatenate([pause(before), samples, pause(after)])


def _level(rng: np.random.Generator) -> np.float32:
    """From 0, digital silence, to 1, the utterance's own noise; each of the two in a third of the pauses."""
    return np.float32(np.clip(rng.uniform(-1, 2), 0, 1))


def quietest_samples(samples: np.ndarray, stretch: int) -> np.ndarray:
    """The `stretch` neighbours with the least energy, without their mean."""
    stretch = min(stretch, len(samples))
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    start = int((energy[stretch:] - energy[:-stretch]).argmin())
    quietest: np.ndarray = samples[start : start + stretch] - samples[start : start + stretch].mean()
    return quietest


def quietest_frames(frames: np.ndarray) -> np.ndarray:
    """The NOISE_FRAMES neighbours whose mean is the lowest."""
    count = min(NOISE_FRAMES, len(frames))
    levels = np.convolve(frames.mean(axis=1), np.ones(count), "valid")
    start = int(levels.argmin())
    return frames[start : start + count]
