"""Speakers by the thousand, as different as those of Common Voice: how much each says, and through what it is heard."""

import io
from dataclasses import dataclass

import numpy as np

from asr_fed.data_prep.synthetic_speakers import ACCENTS, SAMPLE_RATE, VARIANTS, Speaker

MEDIAN_CLIPS, SPREAD, MOST_CLIPS = 1.2, 1.25, 300  # of a training speaker: a log-normal with a long tail, rounded up


@dataclass(frozen=True, slots=True)
class Handset:
    """What stands between a voice and its file, beyond `Speaker`'s microphone and noise.

    The room's sound falls by 60 dB in `reverberation` s (0: none). Where `clipping_db` is above 0 the peak lies so many
    dB above full scale and is cut off there. `codec`: "" for none, "telephone" (8 kHz, 8 bits, mu-law) or "opus".
    """

    reverberation: float
    clipping_db: float
    codec: str


def draw_speaker(name: str, split: str, rng: np.random.Generator) -> tuple[Speaker, Handset]:
    """One speaker. Half are women; a third of the rooms can be heard, a tenth clip, a quarter go through a codec."""
    gender = ("female", "male")[rng.integers(2)]
    speaker = Speaker(
        id=name,
        split=split,
        gender=gender,
        accent=str(rng.choice(ACCENTS)),
        variant=str(rng.choice(VARIANTS[gender])),
        pitch=int(rng.integers(20, 72)),
        pitch_range=int(rng.integers(20, 81)),
        rate=int(rng.integers(140, 206)),
        tract=round(float(rng.uniform(0.88, 1.12)), 3),
        high_pass=int(rng.integers(50, 301)),
        low_pass=int(rng.integers(3200, 7601)),
        tilt=round(float(rng.uniform(-0.4, 0.6)), 3),
        peak_db=round(float(rng.uniform(-20, -1)), 1),
        noise_pole=round(float(rng.uniform(0, 0.95)), 3),
        snr_db=round(float(rng.uniform(0, 35)), 1),
    )
    handset = Handset(
        reverberation=round(float(rng.uniform(0.15, 0.6)), 2) if rng.random() < 1 / 3 else 0.0,
        clipping_db=round(float(rng.uniform(1, 12)), 1) if rng.random() < 0.1 else 0.0,
        codec=str(rng.choice(["", "", "", "", "", "", "telephone", "opus"])),
    )
    return speaker, handset


def draw_clips(rng: np.random.Generator) -> int:
    """How many sentences a training speaker says: most have few, some a hundred."""
    return min(MOST_CLIPS, int(np.ceil(rng.lognormal(np.log(MEDIAN_CLIPS), SPREAD))))


def in_room(speech: np.ndarray, sample_rate: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """`speech` (int16) in a room whose sound falls by 60 dB in so many seconds; as long, at the same peak."""
    from scipy.signal import fftconvolve

    if seconds == 0 or len(speech) == 0:
        return speech
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    response = 0.05 * rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    response[0] = 1.0
    heard = fftconvolve(speech / 32768, response)[: len(speech)]
    heard *= np.abs(speech).max() / 32768 / max(np.abs(heard).max(), 1e-9)
    return _int16(heard)


def through(samples: np.ndarray, handset: Handset) -> np.ndarray:
    """`samples` (int16 at SAMPLE_RATE) as this handset passes them on."""
    import soundfile
    from scipy.signal import resample_poly

    if handset.clipping_db > 0:
        samples = _int16(samples / max(np.abs(samples).max(), 1) * 10 ** (handset.clipping_db / 20))
    if handset.codec == "telephone":
        narrow = np.clip(resample_poly(samples / 32768, 1, 2), -1, 1)
        companded = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)
        steps = np.round(companded * 127) / 127
        samples = _int16(resample_poly(np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255, 2, 1))
    elif handset.codec == "opus":
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=1.0)  # smallest
        file.seek(0)
        samples, _ = soundfile.read(file, dtype="int16")
    return samples


def _int16(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
