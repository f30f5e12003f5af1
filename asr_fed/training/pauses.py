"""Pauses before and after the words of training utterances: recordings have them, corpora of short clips do not."""

from functools import partial

import numpy as np

from asr_fed.config.schema import AugmentConfig
from asr_fed.data.batching import Augment

QUIETEST = 0.1  # share of an utterance's frames that its own noise is taken from


def draw_pauses(config: AugmentConfig, hop_ms: float, rng: np.random.Generator) -> Augment | None:
    """What to do to the utterances of the next batch: a share of the batches gets pauses, the others (None) do not.

    Whole batches, because one long utterance makes all of its batch as long.
    """
    if config.pauses and rng.random() < config.pauses:
        return partial(with_pauses, longest=round(1000 * config.pause_seconds / hop_ms), rng=rng)
    return None


def with_pauses(frames: np.ndarray, silence: np.ndarray, longest: int, rng: np.random.Generator) -> np.ndarray:
    """`frames` [frames, n_mels] between two pauses of up to `longest` frames, each with its own level.

    Half of the pauses are digital silence (`silence`, [n_mels]); the level of the others lies, in dB, anywhere between
    that and the noise of the utterance's quietest frames.
    """
    quiet = frames[np.argsort(frames.mean(axis=1))[: max(1, round(QUIETEST * len(frames)))]]

    def pause() -> np.ndarray:
        noise = quiet[rng.integers(len(quiet), size=rng.integers(longest, endpoint=True))]
        level = max(0.0, rng.uniform(-1, 1))
        levelled: np.ndarray = silence + level * (noise - silence)
        return levelled

    return np.concatenate([pause(), frames, pause()])
