"""The one place that reads audio: a mono waveform at the rate that a recogniser hears, of a whole recording or none."""

import io
import math
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from asr_fed.data.containers import Extent, Unfit, find_extent
from asr_fed.system.errors import UserError

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 18  # samples of a channel that are decoded at a time
RATES = 2_000, 384_000  # Hz
LOUDEST = 2.0**32  # full scale is 1, or 2 ** 31 in a float file that nobody scaled; far beyond, a filterbank overflows
UNKNOWN = 1 << 62  # libsndfile's number of samples where a stream does not state it is above this
CANCELLED = 0.02  # of the energy that the mean of unrelated channels would have: less, and they took each other away
LARGEST_RATIO = 1_000  # resampling from and to multiples of no more: a filter of some megabytes


class BadRecording(UserError):
    """A recording that cannot be used; `defect` is what preparation counts it under."""

    def __init__(self, message: str, defect: str = "broken file") -> None:
        super().__init__(message)
        self.defect = defect


def read_audio(path: str | Path, sample_rate: int, *, speed: float = 1.0) -> "torch.Tensor":
    """Mono waveform as float32 tensor [samples] at `sample_rate` Hz, played `speed` times as fast.

    Raises BadRecording where the file cannot be read from beginning to end.
    """
    import torch

    with open_recording(path) as recording:
        signal = torch.from_numpy(np.concatenate([block.copy() for block in recording.blocks()]))
    # Playing faster is the same as pretending a higher original rate. Rounding it to 100 Hz keeps the
    # resampling kernel small.
    rate = round(recording.rate * speed / 100) * 100 if speed != 1.0 else recording.rate
    return _resample(signal, _ratio(rate, sample_rate))


def audio_blocks(path: str | Path, sample_rate: int, seconds: int) -> "Iterator[torch.Tensor]":
    """What `read_audio` returns, in blocks of so many seconds (the last is shorter); three of them are in memory.

    Raises BadRecording as `read_audio` does, on the way too.
    """
    import torch

    nothing = torch.empty(0)
    with open_recording(path) as recording:
        ratio = _ratio(recording.rate, sample_rate)
        # The shortest time from a second up that begins and ends with a sample at either rate.
        second = ratio.numerator * math.ceil(recording.rate / ratio.numerator)
        blocks = (torch.from_numpy(block.copy()) for block in recording.blocks(seconds * second))
        before, block = nothing, next(blocks, nothing)
        while len(block):
            after = next(blocks, nothing)
            # The resampling filter reaches into both neighbours, by far less than the second that it is given here.
            heard = _resample(torch.cat([before, block, after[:second]]), ratio)
            start = int(len(before) / ratio)
            yield heard[start : start + math.ceil(len(block) / ratio)]
            before, block = block[-second:], after


def audio_seconds(path: str | Path) -> float:
    """As the file states, 0 where it does not. Raises BadRecording where it can be seen that it is not whole."""
    with open_recording(path) as recording:
        return recording.stated / recording.rate


class Recording:
    """An open file: `rate` in Hz, `stated`, the number of samples that it says it has (0: it does not say), and the
    `lowest` and `highest` sample of the blocks that have been read.
    """

    def __init__(self, sound: soundfile.SoundFile, extent: Extent) -> None:
        self._sound = sound
        self._slack = extent.slack * sound.samplerate
        self.rate: int = sound.samplerate
        known = sound.frames if extent.samples is None else extent.samples
        self.stated: int = known if known < UNKNOWN else 0
        self.lowest, self.highest = math.inf, -math.inf
        if not RATES[0] <= self.rate <= RATES[1]:
            raise Unfit(f"has a sample rate of {self.rate} Hz; what can be used is {RATES[0]} to {RATES[1]}.")

    def blocks(self, samples: int = BLOCK) -> Iterator[np.ndarray]:
        """The mean of the channels, float32, in blocks of so many samples (the last is shorter): each is good until
        the next one is read.

        In place of an end Unfit is raised where samples are missing, too many, no numbers or none at all, or where the
        channels take each other away.
        """
        out = np.empty((samples, self._sound.channels), dtype=np.float32)
        block, count, energy, energy_if_unrelated = out, 0, 0.0, 0.0
        while len(block) == samples:
            block = self._sound.read(out=out)
            if len(block):
                mono = block.mean(axis=1) if self._sound.channels > 1 else block[:, 0]
                low, high = float(mono.min()), float(mono.max())
                if not (low >= -LOUDEST and high <= LOUDEST):  # NaN is neither
                    place = (count + int(np.argmin(np.abs(mono) <= LOUDEST))) / self.rate
                    raise Unfit(f"holds samples that are not finite or beyond any scale, the first at {place:.3f} s.")
                if self._sound.channels > 1:
                    energy += float(np.vdot(mono, mono))
                    energy_if_unrelated += float(np.vdot(block, block)) / self._sound.channels**2
                self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
                count += len(block)
                yield mono
        if self.stated and abs(count - self.stated) > self._slack:
            how = "breaks off" if count < self.stated else "goes on behind its end"
            stated, there = self.stated / self.rate, count / self.rate
            raise Unfit(f"{how}: it should have {stated:.2f} s, and {there:.2f} s can be read. Convert it again.")
        if not count:
            raise Unfit("holds no sound.", "empty file")
        if energy < CANCELLED * energy_if_unrelated:
            raise Unfit(
                "has channels that cancel each other: hardly anything is left of their mean. Give one of them alone.",
                "silent: channels cancel",
            )


@contextmanager
def open_recording(path: str | Path) -> Iterator[Recording]:
    """Raises BadRecording, also for what is found while its blocks are read."""
    try:
        with _on_disk(path) as file:
            extent = _extent(file)
            # By its name libsndfile would take an MP3 for what macOS has put beside it, ._NAME.
            with (
                _Patched(file, extent.patch) if extent.patch else io.FileIO(file) as source,
                _Sound(source if extent.patch else source.fileno(), closefd=False) as sound,
            ):
                yield Recording(sound, extent)
    except OSError as error:
        raise BadRecording(f"The recording {path} cannot be read: {error.strerror}.") from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        raise BadRecording(f"The recording {path} cannot be decoded: {reason}.") from error
    except Unfit as error:
        raise BadRecording(f"The recording {path} {error}", error.defect) from error


@contextmanager
def _on_disk(path: str | Path) -> Iterator[str]:
    """The file itself, or a copy of what comes out of a pipe, where one cannot look for the end."""
    with open(path, "rb") as file:  # knows why it cannot be opened, which libsndfile does not
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield str(path)
            return
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield copy.name


def _extent(path: str) -> Extent:
    if not os.path.getsize(path):
        raise Unfit("is an empty file.", "empty file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return find_extent(data)


class _Sound(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Read on to the end: else soundfile stops at the stated number of samples, and seeks after everything it reads."""

    def seekable(self) -> bool:
        return False


class _Patched(io.FileIO):
    """A file that reads as if there were other bytes at one place."""

    def __init__(self, path: str, patch: tuple[int, bytes]) -> None:
        super().__init__(path)
        self._place, self._bytes = patch

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        first, last = max(start, self._place), min(start + count, self._place + len(self._bytes))
        if first < last:
            buffer[first - start : last - start] = self._bytes[first - self._place : last - self._place]
        return count


def _ratio(rate: int, sample_rate: int) -> Fraction:
    """`rate` to `sample_rate`: exact where both are usual, else off by less than 0.1 %.

    A resampling filter has about as many weights as numerator times denominator: 256 million from 16,001 to 16,000 Hz.
    """
    return Fraction(rate, sample_rate).limit_denominator(LARGEST_RATIO)


def _resample(signal: "torch.Tensor", ratio: Fraction) -> "torch.Tensor":
    from torchaudio.functional import resample

    resampled: torch.Tensor = signal if ratio == 1 else resample(signal, ratio.numerator, ratio.denominator)
    return resampled
