from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from asr_fed.data_prep.espeak import Espeak
from asr_fed.model.recogniser import Recogniser
from tests.tiny import RATE, WORDS, speak, tiny_recogniser


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    """Random weights, drawn larger than usual so that hypotheses are long and differ."""
    built = tiny_recogniser()
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
        built.model.ctc_head.w.bias[:3] = -3.0  # few blanks
        built.model.decoder_head.w.bias[1:3] = -1.0  # no early end
        built.model.feature_mean.fill_(-10)
        built.model.feature_deviation.fill_(5)
    return built


@pytest.fixture(scope="session")
def sentence() -> np.ndarray:
    """2 s of tones, one a word."""
    return speak(list(WORDS), 1.0, np.random.default_rng(1))


@pytest.fixture(scope="session")
def spoken() -> np.ndarray:
    """2 s of French, by espeak-ng: what a detector of speech takes for it."""
    espeak = Espeak()
    samples = espeak.say("le chat de la voisine est très calme", "fr+m3").astype(np.float32) / 2**15
    return resample(torch.from_numpy(samples), espeak.sample_rate, RATE).numpy()


@pytest.fixture
def recordings(tmp_path: Path, sentence: np.ndarray) -> Path:
    """A folder: one.wav, deep/two.FLAC, deep/three.mp3, notes.txt."""
    folder = tmp_path / "recordings"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "one.wav", sentence, RATE)
    soundfile.write(folder / "deep" / "two.FLAC", sentence[: len(sentence) // 2], RATE)
    soundfile.write(folder / "deep" / "three.mp3", sentence[::-1], RATE)
    (folder / "notes.txt").write_text("no recording")
    return folder
