"""Where somebody speaks: espeak-ng's sentences between silence, noise and tones."""

import sys

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from asr_fed.transcribe.speech import RATE, STEP_SECONDS, SpeechDetector, _silero


@pytest.fixture
def sentence(spoken: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(spoken)


def noise(seconds: float, level: float) -> torch.Tensor:
    return level * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("level", [0.0, 0.002], ids=["zeros", "noise"])
@pytest.mark.parametrize(("rate", "block"), [(16000, 16_384), (16000, 160_000), (8000, 40_960)])
def test_speech_is_told_from_pauses(sentence: torch.Tensor, level: float, rate: int, block: int) -> None:
    words = torch.nn.functional.pad(sentence, (2 * RATE, 2 * RATE))
    signal = words.repeat(2) + noise(2 * len(words) / RATE, level)[: 2 * len(words)]
    detector = SpeechDetector(rate)
    heard = torch.cat([detector(part) for part in resample(signal, RATE, rate).split(block)])
    starts = [2.0, 6.0 + len(sentence) / RATE]
    for start in starts:
        inside = heard[round((start + 0.3) / STEP_SECONDS) : round((start + len(sentence) / RATE - 0.3) / STEP_SECONDS)]
        before = heard[round((start - 1.5) / STEP_SECONDS) : round((start - 0.3) / STEP_SECONDS)]
        assert inside.float().mean() > 0.9
        assert before.float().mean() < 0.05


def test_blocks_of_any_length_give_a_step_each_32_ms(sentence: torch.Tensor) -> None:
    for samples in (1, 511, 512, 513, 9000):
        assert len(SpeechDetector(RATE)(sentence[:samples])) == -(-samples // 512)


def test_torch_keeps_its_threads() -> None:
    """The package sets them to one when it is imported."""
    _silero.cache_clear()
    sys.modules.pop("silero_vad.model", None)
    sys.modules.pop("silero_vad", None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        SpeechDetector(RATE)(torch.zeros(RATE))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
