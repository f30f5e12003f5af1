"""Recordings as mono waveforms at the rate that a recogniser hears: whole, or in blocks where they are long."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_fed.system.errors import UserError


def read_audio(path: str | Path, sample_rate: int, *, speed: float = 1.0):
    """Mono waveform as float32 tensor [samples] at `sample_rate` Hz, played `speed` times as fast.

    Raises UserError where the file cannot be decoded.
    """
    from torchaudio.functional import resample

    with _open(path) as file:
        signal, rate = _read_mono(file), file.samplerate
    # Playing faster is the same as pretending a higher original rate. Rounding it to 100 Hz keeps the
    # resampling kernel small.
    rate = round(rate * speed / 100) * 100 if speed != 1.0 else rate
    return signal if rate == sample_rate else resample(signal, rate, sample_rate)


def audio_blocks(path: str | Path, sample_rate: int, seconds: int) -> Iterator:
    """What `read_audio` returns, in blocks of so many seconds (the last is shorter); three of them are in memory.

    Raises UserError where the file cannot be decoded, on the way too.
    """
    import torch
    from torchaudio.functional import resample

    with _open(path) as file:
        rate = file.samplerate
        before, block = torch.empty(0), _read_mono(file, seconds * rate)
        while len(block):
            after = _read_mono(file, seconds * rate)
            # The resampling filter reaches into both neighbours, by far less than the second that it is given
            # here. Whole seconds begin and end with a sample at either rate.
            heard = torch.cat([before, block, after[:rate]])
            if rate != sample_rate:
                heard = resample(heard, rate, sample_rate)
            start = len(before) // rate * sample_rate
            yield heard[start : start + math.ceil(len(block) * sample_rate / rate)]
            before, block = block[-rate:], after


def audio_seconds(path: str | Path) -> float:
    """Raises UserError where the file cannot be opened."""
    with _open(path) as file:
        return file.frames / file.samplerate


@contextmanager
def _open(path: str | Path) -> Iterator:
    import soundfile

    try:
        with open(path, "rb"):  # knows why it cannot be opened, which libsndfile does not
            pass
        with soundfile.SoundFile(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"The recording {path} cannot be read: {error.strerror}.") from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise UserError(f"The recording {path} cannot be decoded: {reason}.") from error


def _read_mono(file, samples: int = -1):
    """The next so many samples of an open file, or all that are left: float32 tensor [samples]."""
    import torch

    return torch.from_numpy(file.read(samples, dtype="float32", always_2d=True).mean(axis=1))
