"""Recordings are read whole, in one piece or in blocks without a seam, or refused in one sentence."""

import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_fed.data.audio import BadRecording, audio_blocks, audio_seconds, read_audio
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


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    for read in (read_audio, lambda path, rate: list(audio_blocks(path, rate, 20))):
        with pytest.raises(BadRecording, match=r"a\.wav holds no sound"):
            read(write(tmp_path / "a.wav", 16000, seconds=0), 16000)
        (tmp_path / "b.wav").touch()
        with pytest.raises(BadRecording, match=r"b\.wav is an empty file"):
            read(tmp_path / "b.wav", 16000)


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


def test_a_flac_of_unknown_length_is_its_ordinary_twin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", 16000)
    whole = read_audio(path, 16000)
    state_samples(path, 0)  # as an encoder does that writes into a pipe
    assert torch.equal(read_audio(path, 16000), whole)
    torch.testing.assert_close(torch.cat(list(audio_blocks(path, 16000, 1))), whole, rtol=0, atol=0)
    assert audio_seconds(path) == 0  # not said


@pytest.mark.parametrize("stated", [20_000, 58_000, 60_400, 1 << 35])
def test_a_flac_that_states_another_length_is_refused(tmp_path: Path, stated: int) -> None:
    path = write(tmp_path / "a.flac", 16000)
    state_samples(path, stated)
    with pytest.raises(BadRecording, match="goes on after its end" if stated < 3.7 * 16000 else "breaks off"):
        read_audio(path, 16000)


def state_samples(path: Path, samples: int) -> None:
    """In a FLAC file: the 36 bits behind 172 others (RFC 9639, section 8.2)."""
    content = path.read_bytes()
    field = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples
    path.write_bytes(content[:18] + field.to_bytes(8, "big") + content[26:])


def test_a_recording_is_read_from_a_pipe(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 16000)
    content, expected = path.read_bytes(), read_audio(path, 16000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content])
    writer.start()
    assert torch.equal(read_audio(pipe, 16000), expected)
    writer.join()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_sample_that_is_no_sound_is_refused_with_its_place(tmp_path: Path, value: float) -> None:
    signal = np.full(32000, 0.1, dtype=np.float32)
    signal[24000] = value
    soundfile.write(tmp_path / "a.wav", signal, 16000, subtype="FLOAT")
    with pytest.raises(BadRecording, match=r"a\.wav holds samples that are not finite.* 1\.500 s"):
        read_audio(tmp_path / "a.wav", 16000)


def test_channels_that_cancel_are_refused_and_others_are_averaged(tmp_path: Path) -> None:
    signal = 0.3 * np.sin(np.arange(32000) / 20)
    noise = 0.01 * np.random.default_rng(1).standard_normal(32000)
    for other in (-signal, -signal + noise):
        soundfile.write(tmp_path / "a.flac", np.stack([signal, other], axis=1), 16000)
        with pytest.raises(BadRecording, match=r"a\.flac has channels that cancel"):
            read_audio(tmp_path / "a.flac", 16000)
    for other in (np.zeros_like(signal), -0.5 * signal, noise):
        soundfile.write(tmp_path / "a.wav", np.stack([signal, other], axis=1), 16000, subtype="FLOAT")
        mean = torch.from_numpy((signal + other) / 2).float()
        torch.testing.assert_close(read_audio(tmp_path / "a.wav", 16000), mean, rtol=0, atol=1e-6)
    soundfile.write(tmp_path / "a.wav", np.zeros((16000, 2)), 16000)
    assert not read_audio(tmp_path / "a.wav", 16000).any()  # silence is no fault of the channels


@pytest.mark.parametrize("rate", [16001, 11127, 22255, 44101, 47999, 15991, 192001])
def test_an_odd_sample_rate_costs_no_more_than_a_usual_one(tmp_path: Path, rate: int) -> None:
    time = np.arange(round(1.2 * rate)) / rate
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 400 * time), rate, subtype="FLOAT")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal = read_audio(path, 16000)
    blocks = list(audio_blocks(path, 16000, 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert len(signal) == pytest.approx(1.2 * 16000, abs=20)  # 0.1 %
    spectrum = np.abs(np.fft.rfft(signal[:16000].numpy() * np.hanning(16000)))
    assert spectrum.argmax() == 400 and spectrum[395:406].sum() > 0.99 * spectrum.sum()
    torch.testing.assert_close(torch.cat(blocks), signal, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [1, 1_000_000_000])
def test_an_impossible_sample_rate_is_refused(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.1), rate)
    with pytest.raises(BadRecording, match=f"sample rate of {rate} Hz"):
        read_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_what_a_mac_left_beside_a_recording_does_not_harm_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 16000)
    expected = read_audio(path, 16000)
    path.with_name(f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    assert torch.equal(read_audio(path, 16000), expected)
