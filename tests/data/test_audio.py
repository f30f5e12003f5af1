"""Recordings read in blocks: no seam, no drift, and the same error wherever the file breaks."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_fed.data.audio import audio_blocks, audio_seconds, read_audio
from asr_fed.system.errors import UserError


def write(path: Path, rate: int, seconds: float = 3.7, channels: int = 2) -> Path:
    """Noise, and in it a low tone at which a click would stand out."""
    rng = np.random.default_rng(4)
    time = np.arange(round(seconds * rate)) / rate
    signal = 0.3 * np.sin(2 * np.pi * 220 * time) + 0.01 * rng.standard_normal(len(time))
    subtype = "OPUS" if path.suffix == ".opus" else None
    kind = "OGG" if path.suffix == ".opus" else None
    soundfile.write(path, np.stack([signal] * channels, axis=1), rate, subtype=subtype, format=kind)
    return path


@pytest.mark.parametrize(
    ("name", "rate"),
    [("a.wav", 16000), ("a.wav", 8000), ("a.flac", 44100), ("a.flac", 22050), ("a.mp3", 48000), ("a.opus", 48000)],
)
@pytest.mark.parametrize("seconds", [1, 2])
def test_blocks_are_the_recording(tmp_path: Path, name: str, rate: int, seconds: int) -> None:
    path = write(tmp_path / name, rate)
    blocks = list(audio_blocks(path, 16000, seconds))
    assert [len(block) for block in blocks[:-1]] == [16000 * seconds] * (len(blocks) - 1)
    assert len(blocks) > 1
    torch.testing.assert_close(torch.cat(blocks), read_audio(path, 16000), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_block_that_holds_all_is_bit_for_bit_the_recording(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.mp3", rate)
    [block] = audio_blocks(path, 16000, 20)
    assert torch.equal(block, read_audio(path, 16000))


def test_an_empty_recording_has_no_blocks(tmp_path: Path) -> None:
    assert list(audio_blocks(write(tmp_path / "a.wav", 16000, seconds=0), 16000, 20)) == []


def test_seconds(tmp_path: Path) -> None:
    assert audio_seconds(write(tmp_path / "a.flac", 8000, seconds=2.5)) == 2.5


def test_a_recording_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", 16000, seconds=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    blocks = audio_blocks(path, 16000, 5)
    assert len(next(blocks)) == 5 * 16000
    with pytest.raises(UserError, match=r"a\.flac cannot be decoded"):
        list(blocks)


def test_one_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.wav cannot be read: No such file"):
        next(audio_blocks(tmp_path / "a.wav", 16000, 5))
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        audio_seconds(tmp_path)
