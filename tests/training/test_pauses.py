"""Pauses around training utterances: of any level from digital silence to the utterance's own noise."""

import numpy as np
import pytest

from asr_fed.config.schema import AugmentConfig
from asr_fed.training.pauses import draw_pauses, with_pauses

SILENCE = np.full(4, -60, np.float32)
WORDS = np.concatenate([np.full((5, 4), -40), np.full((45, 4), 10)]).astype(np.float32)  # noise, then words


def test_the_words_are_what_they_were_between_pauses_up_to_the_longest() -> None:
    rng = np.random.default_rng(1)
    lengths = set()
    for _ in range(300):
        frames = with_pauses(WORDS, SILENCE, 3, rng)
        [before] = [start for start in range(len(frames)) if np.array_equal(frames[start : start + 50], WORDS)]
        lengths.add((before, len(frames) - 50 - before))
    assert lengths == {(before, after) for before in range(4) for after in range(4)}
    assert frames.dtype == np.float32


def test_half_of_the_pauses_are_digital_silence_and_none_is_louder_than_the_noise() -> None:
    rng = np.random.default_rng(2)
    levels = []
    for _ in range(400):
        frames = with_pauses(WORDS, SILENCE, 9, rng)
        levels += [edge[0] for edge in (frames[0], frames[-1]) if edge[0] < 10]
    quiet = np.array([level for level in levels if level < -40])
    assert 0.4 < np.mean(quiet == -60) < 0.6
    assert quiet.min() == -60 and quiet.max() > -43 and max(levels) == -40
    assert np.histogram(quiet[quiet > -60], bins=4, range=(-60, -40))[0].min() > 20, "all levels in between"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_batches_has_them(share: float) -> None:
    config = AugmentConfig(pauses=share, pause_seconds=0.5)
    rng = np.random.default_rng(3)
    drawn = [draw_pauses(config, 10, rng) for _ in range(400)]
    longer = [pauses(WORDS, SILENCE) for pauses in drawn if pauses]
    assert len(longer) / len(drawn) == pytest.approx(share, abs=0.06)
    assert max(map(len, longer), default=150) > 120 and max(map(len, longer), default=0) <= 150


def test_a_seed_repeats_them_and_without_them_nothing_is_drawn() -> None:
    config = AugmentConfig(pauses=1.0)
    results = []
    for rng in (np.random.default_rng(4), np.random.default_rng(4)):
        pauses = draw_pauses(config, 10, rng)
        assert pauses is not None
        results.append(pauses(WORDS, SILENCE))
    assert np.array_equal(*results)
    rng = np.random.default_rng(4)
    assert draw_pauses(AugmentConfig(pauses=0.0), 10, rng) is None
    assert rng.random() == np.random.default_rng(4).random()
