"""The only module that reads audio: the whole recording as a mono waveform at the recogniser's rate, or an error."""

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

BLOCK = 1 << 18  # samples per channel that are decoded at a time
RATES = 2_000, 384_000  # Hz
LOUDEST = 2.0**32  # full scale is 1, or 2**31 in an unscaled float file; far above, a filterbank overflows
UNKNOWN = 1 << 62  # libsndfile gives a larger number of samples if a stream does not state its length
CANCELLED = 0.02  # share of the energy that the mean of unrelated channels has: with less, channels cancel
LARGEST_RATIO = 1_000  # largest numerator and denominator of a resampling ratio: a filter of some megabytes


class BadRecording(UserError):
    """A recording that cannot be used; `defect` is the category under which preparation counts it."""

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
    # Faster playback is the same as a higher original rate. Rounding that to 100 Hz keeps the resampling kernel small.
    rate = round(recording.rate * speed / 100) * 100 if speed != 1.0 else recording.rate
    return _resample(signal, _ratio(rate, sample_rate))


def audio_blocks(path: str | Path, sample_rate: int, seconds: int) -> "Iterator[torch.Tensor]":
    """The result of `read_audio` in blocks of `seconds` (the last is shorter); three blocks are in memory at a time.

    Raises BadRecording like `read_audio`, also between blocks.
    """
    import torch

    nothing = torch.empty(0)
    with open_recording(path) as recording:
        ratio = _ratio(recording.rate, sample_rate)
        # The shortest time of at least a second that is a whole number of samples at both rates.
        second = ratio.numerator * math.ceil(recording.rate / ratio.numerator)
        blocks = (torch.from_numpy(block.copy()) for block in recording.blocks(seconds * second))
        before, block = nothing, next(blocks, nothing)
        while len(block):
            after = next(blocks, nothing)
            # The resampling filter reaches into both neighbours, by much less than the second that it gets here.
            heard = _resample(torch.cat([before, block, after[:second]]), ratio)
            start = int(len(before) / ratio)
            yield heard[start : start + math.ceil(len(block) / ratio)]
            before, block = block[-second:], after


def audio_seconds(path: str | Path) -> float:
    """The length that the file states, 0 if it states none. Raises BadRecording if the file is visibly incomplete."""
    with open_recording(path) as recording:
        return recording.stated / recording.rate


class Recording:
    """An open file: its `rate` in Hz, the number of samples `stated` in it (0: none), and the `lowest` and `highest`
    sample of the blocks read so far.
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
        """The mean of the channels, float32, in blocks of `samples` (the last is shorter). A block is valid until
        the next one is read.

        At the end Unfit is raised if samples are missing, too many, not finite, or none at all, or if the channels
        cancel each other.
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
            how = "breaks off" if count < self.stated else "goes on after its end"
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
    """Raises BadRecording, also for faults that appear while blocks are read."""
    try:
        with _on_disk(path) as file:
            extent = _extent(file)
            # Given the name, libsndfile would read ._NAME, which macOS puts beside an MP3, instead of the MP3.
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
    """The file itself, or a copy of a pipe's content, because one cannot seek in a pipe."""
    with open(path, "rb") as file:  # says why it cannot be opened, which libsndfile does not
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
    """Reads to the end of the file: soundfile stops at the stated number of samples, and seeks after each read."""

    def seekable(self) -> bool:
        return False


class _Patched(io.FileIO):
    """A file that is read with other bytes at one place."""

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
    """`rate` to `sample_rate` as a ratio: exact for usual rates, else with an error below 0.1 %.

    A resampling filter has about as many weights as numerator times denominator: 256 million from 16,001 to 16,000 Hz.
    """
    return Fraction(rate, sample_rate).limit_denominator(LARGEST_RATIO)


def _resample(signal: "torch.Tensor", ratio: Fraction) -> "torch.Tensor":
    from torchaudio.functional import resample

    resampled: torch.Tensor = signal if ratio == 1 else resample(signal, ratio.numerator, ratio.denominator)
    return resampled
