"""Silence around the words does not change what the recogniser reads of them."""

import pytest
import torch
from torch.nn.functional import pad

from asr_fed.config.schema import FeatureConfig
from asr_fed.data.features import extractor

RATE = 16000
CONFIG = FeatureConfig(n_mels=24, hop_ms=20, subtract_mean=True)
AS_IT_IS = FeatureConfig(n_mels=24, hop_ms=20)
ALL_FRAMES = FeatureConfig(n_mels=24, hop_ms=20, subtract_mean=True, mean_gate_db=None)
READ = {"rtol": 0, "atol": 1e-3}


def noise(seconds: float, level: float, seed: int = 1) -> torch.Tensor:
    return level * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


QUIET = 0.0015  # noise 35 dB below the words
LOUD = 0.025  # 10 dB


def words(level: float = QUIET) -> torch.Tensor:
    """2 s: four loud words in noise of that level."""
    loud = pad(torch.linspace(0.05, 0.1, round(0.3 * RATE)), (RATE // 10, RATE // 10)).repeat(4)
    return noise(2, 1.0, seed=2) * loud + noise(2, level, seed=3)


def read(signal: torch.Tensor, config: FeatureConfig = CONFIG) -> torch.Tensor:
    return extractor(config)(signal).float()


@pytest.mark.parametrize("level", [QUIET, LOUD])
@pytest.mark.parametrize(("before", "after"), [(2.0, 2.0), (0.0, 10.0), (0.26, 0.0)])
def test_zeros_around_the_words_change_nothing_that_is_read_of_them(before: float, after: float, level: float) -> None:
    signal = words(level)
    around = pad(signal, (round(before * RATE), round(after * RATE)))
    first = round(before * 1000 / CONFIG.hop_ms)
    frames = read(signal)
    torch.testing.assert_close(read(around)[first : first + len(frames) - 1], frames[:-1], **READ)


@pytest.mark.parametrize(("level", "most"), [(QUIET, 1e-3), (0.01, 0.2), (LOUD, 0.2)])
def test_nor_do_pauses_of_the_recordings_own_noise(level: float, most: float) -> None:
    signal = words(level)
    around = torch.cat([noise(8, level, seed=4), signal, noise(8, level, seed=5)])
    torch.testing.assert_close(read(around)[401:499], read(signal)[1:99], rtol=0, atol=most)


def test_nor_do_zeros_between_words_in_noise() -> None:
    signal = words(LOUD)
    middle = len(signal) // 2
    around = torch.cat([signal[:middle], torch.zeros(2 * RATE), signal[middle:]])
    torch.testing.assert_close(read(around)[:49], read(signal)[:49], rtol=0, atol=0.1)


def test_noise_of_any_level_does_not_count_as_speech() -> None:
    """The mean of a recording in noise is that of the same words in quiet, but for what the noise adds to the words."""
    means = [read(words(level))[10:15].mean() for level in (QUIET, 0.01, LOUD)]  # frames of the first word
    assert max(means) - min(means) < 1.5


def test_a_click_is_not_taken_for_the_level_of_speech() -> None:
    signal = words()
    signal[RATE // 2 - 40 : RATE // 2 + 40] = 1.0
    torch.testing.assert_close(read(signal)[30:], read(words())[30:], rtol=0, atol=1.0)


def test_the_microphone_is_taken_out() -> None:
    """What the mean is for: each band of what was said has the same level whoever recorded it."""
    coloured = torch.nn.functional.conv1d(words()[None, None], torch.tensor([[[0.3, 1.0, 0.8]]]), padding=1)[0, 0]
    torch.testing.assert_close(read(coloured), read(words()), rtol=0, atol=2.0)
    assert (read(coloured, AS_IT_IS) - read(words(), AS_IT_IS)).abs().mean() > 2


@pytest.mark.parametrize("signal", [torch.zeros(RATE), torch.zeros(1), noise(0.02, 0.1)])
def test_silence_alone_and_recordings_of_a_frame_are_read(signal: torch.Tensor) -> None:
    assert read(signal).isfinite().all()


def test_a_frame_of_digital_silence_is_what_zeros_read() -> None:
    for config in (CONFIG, AS_IT_IS):
        signal = words()
        with_silence = extractor(config)(signal, with_silence=True).float()
        assert torch.equal(with_silence[:-1], read(signal, config))
        zeros = read(pad(signal, (0, RATE)), config)[-20:-5]
        torch.testing.assert_close(with_silence[-1:].expand_as(zeros), zeros, **READ)


def test_without_a_gate_every_frame_counts_as_in_version_0_1() -> None:
    signal = pad(words(), (RATE, RATE))
    plain = read(signal, AS_IT_IS)
    torch.testing.assert_close(read(signal, ALL_FRAMES), plain - plain.mean(0), rtol=0, atol=0.05)
