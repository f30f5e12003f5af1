"""Pauses around training utterances: of any level from digital silence to the utterance's own noise."""

import numpy as np
import pytest

from asr_fed.config.schema import AugmentConfig, FeatureConfig, FeatureKind
from asr_fed.training.pauses import draw_pauses, quietest_frames, quietest_samples, with_pauses

FRAMES = FeatureConfig(hop_ms=10)
SILENCE = np.full(4, -60, np.float32)
WORDS = np.concatenate([np.full((10, 4), -40), np.full((40, 4), 10), np.full((5, 4), -45)]).astype(np.float32)


def test_the_words_are_what_they_were_between_pauses_of_the_length_asked_for() -> None:
    frames = with_pauses(WORDS, SILENCE, 7, 3, np.random.default_rng(1))
    assert len(frames) == 7 + len(WORDS) + 3 and frames.dtype == np.float32
    assert np.array_equal(frames[7:-3], WORDS)
    assert np.array_equal(with_pauses(WORDS, SILENCE, 0, 0, np.random.default_rng(1)), WORDS)


def test_pauses_are_silence_the_utterances_own_noise_or_in_between() -> None:
    rng = np.random.default_rng(2)
    levels = np.array([with_pauses(WORDS, SILENCE, 1, 0, rng)[0, 0] for _ in range(600)])
    assert np.mean(levels == -60) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean(levels == -40) == pytest.approx(1 / 3, abs=0.06)
    between = levels[(levels > -60) & (levels < -40)]
    assert len(between) + np.sum(levels == -60) + np.sum(levels == -40) == 600
    assert np.histogram(between, bins=4, range=(-60, -40))[0].min() > 30, "all levels in between"


def test_noise_is_taken_from_the_quietest_place_that_is_long_enough() -> None:
    assert (quietest_frames(WORDS) == -40).all() and len(quietest_frames(WORDS)) == 10
    assert len(quietest_frames(WORDS[:3])) == 3


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_batches_has_them_up_to_the_longest(share: float) -> None:
    config = AugmentConfig(pauses=share, pause_seconds=0.5)
    rng = np.random.default_rng(3)
    drawn = [draw_pauses(config, FRAMES, rng) for _ in range(400)]
    longer = [len(pauses(WORDS, SILENCE)) - len(WORDS) for pauses in drawn if pauses]
    assert len(longer) / len(drawn) == pytest.approx(share, abs=0.06)
    assert all(0 <= frames <= 100 for frames in longer)
    assert not longer or (max(longer) > 80 and min(longer) < 20)


def test_a_batch_has_pauses_of_one_length() -> None:
    pauses = draw_pauses(AugmentConfig(pauses=1.0), FRAMES, np.random.default_rng(5))
    assert pauses is not None
    assert len({len(pauses(WORDS, SILENCE)) for _ in range(5)}) == 1


def test_a_seed_repeats_them_and_without_them_nothing_is_drawn() -> None:
    results = []
    for rng in (np.random.default_rng(4), np.random.default_rng(4)):
        pauses = draw_pauses(AugmentConfig(pauses=1.0), FRAMES, rng)
        assert pauses is not None
        results.append(pauses(WORDS, SILENCE))
    assert np.array_equal(*results)
    rng = np.random.default_rng(4)
    assert draw_pauses(AugmentConfig(pauses=0.0), FRAMES, rng) is None
    assert rng.random() == np.random.default_rng(4).random()


def test_a_waveforms_pauses_have_the_level_and_the_colour_of_its_quietest_place() -> None:
    rng, rate = np.random.default_rng(6), 16000
    time = np.arange(rate) / rate
    hum = 0.01 * np.sin(2 * np.pi * 200 * time) + 0.1  # its offset is no noise
    samples = np.concatenate([hum, rng.normal(0, 0.3, rate)]).astype(np.float32)[:, None]
    np.testing.assert_allclose(quietest_samples(samples[:, 0], 1600).mean(), 0, atol=1e-6)
    make = draw_pauses(AugmentConfig(pauses=1.0), FeatureConfig(kind=FeatureKind.waveform), rng)
    assert make is not None
    levels = []
    for _ in range(60):
        made = make(samples, np.zeros(1, np.float32))
        assert made.dtype == np.float32 and made.shape[1] == 1
        start = made.shape[0] - len(samples) - make.keywords["after"]  # type: ignore[attr-defined]
        assert np.array_equal(made[start : start + len(samples)], samples)
        pause = made[:start, 0]
        levels.append(pause.std() / hum.std())
        if levels[-1] > 0.5:
            spectrum = np.abs(np.fft.rfft(pause)) ** 2
            low = spectrum[: round(400 * len(pause) / rate)].sum()
            assert low > 0.9 * spectrum.sum()
    assert sum(level == 0 for level in levels) > 10
    assert 0.7 < np.median([level for level in levels if level > 0.7]) < 1.3 and max(levels) < 2
