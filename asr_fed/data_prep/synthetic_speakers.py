"""Synthetic speakers: each has a voice of espeak-ng, a microphone, and a background noise.

Speakers differ, for a listener and for a recogniser, in the accent, the variant (formants and timbre), the
length of the vocal tract, pitch and its range, speaking rate, the channel, and the noise.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from asr_fed.data.manifest import Utterance
from asr_fed.data_prep.espeak import Espeak
from asr_fed.system.errors import UserError

SAMPLE_RATE = 16_000  # Hz, of everything that is written

# Variants of espeak-ng that stay intelligible in French; no whispers, robots, or near twins, and none of
# those that differ from run to run (sandro, and every one with an echo: espeak-ng reads uncleared memory).
VARIANTS = {
    "female": (
        "Andrea", "Annie", "anika", "aunty", "belinda", "f1", "grandma", "linda", "shelby", "steph",
    ),
    "male": (
        "Alex", "Andy", "Denis", "Diogo", "Gene", "Michael", "Mike", "Nguyen", "Reed", "adam", "antonio",
        "boris", "david", "ed", "edward", "gustave", "ian", "iven", "m1", "m3", "m7", "m8", "paul", "quincy",
        "travis",
    ),
}  # fmt: skip
ACCENTS = ("fr", "fr", "fr-be", "fr-ch")  # voices of France, Belgium and Switzerland
PITCHES = range(20, 72, 4)  # steps that a listener can distinguish


@dataclass(frozen=True, slots=True)
class Speaker:
    """How one speaker sounds.

    `pitch`, `pitch_range` (0-99) and `rate` (words a minute) are espeak's. `tract` stretches the frequency
    axis, formants and pitch alike (above 1: a shorter vocal tract). The channel passes `high_pass` to
    `low_pass` Hz, tilts the spectrum by y[t] = x[t] - tilt x[t-1], and ends at a peak of `peak_db` dB of
    full scale. The noise has the spectrum of a one-pole filter at `noise_pole` (0 white, towards 1
    rumbling) and lies `snr_db` dB below the speech.
    """

    id: str
    split: str
    gender: str
    accent: str
    variant: str
    pitch: int
    pitch_range: int
    rate: int
    tract: float
    high_pass: int
    low_pass: int
    tilt: float
    peak_db: float
    noise_pole: float
    snr_db: float


def draw_speakers(counts: Mapping[str, int], seed: int) -> list[Speaker]:
    """`counts[split]` speakers for each split, in its order, all from the same distribution.

    Women and men alternate. Within a split a variant is used again only after all others of that gender; no two
    speakers of the corpus have the same variant and pitch. Raises UserError if there are more speakers than that
    allows.
    """
    rng = np.random.default_rng(seed)
    taken: set[tuple[str, int]] = set()
    speakers: list[Speaker] = []
    for split, count in counts.items():
        decks: dict[str, list[str]] = {gender: [] for gender in VARIANTS}
        for number, gender in zip(range(count), itertools.cycle(VARIANTS)):
            decks[gender] = decks[gender] or [str(variant) for variant in rng.permutation(VARIANTS[gender])]
            variant = decks[gender].pop()
            pitches = [pitch for pitch in PITCHES if (variant, pitch) not in taken]
            if not pitches:
                raise UserError(
                    f"{sum(counts.values())} synthetic speakers are too many: "
                    f"the {gender} voices are used up after {len(speakers)}."
                )
            pitch = int(rng.choice(pitches))
            taken.add((variant, pitch))
            speakers.append(
                Speaker(
                    id=f"{split}-{number:03d}",
                    split=split,
                    gender=gender,
                    accent=str(rng.choice(ACCENTS)),
                    variant=variant,
                    pitch=pitch,
                    pitch_range=int(rng.integers(20, 81)),
                    rate=int(rng.integers(140, 186)),
                    tract=round(float(rng.uniform(0.9, 1.1)), 3),
                    high_pass=int(rng.integers(50, 301)),
                    low_pass=int(rng.integers(3200, 7601)),
                    tilt=round(float(rng.uniform(-0.4, 0.6)), 3),
                    peak_db=round(float(rng.uniform(-15, -1)), 1),
                    noise_pole=round(float(rng.uniform(0, 0.95)), 3),
                    snr_db=round(float(rng.uniform(0, 25)), 1),
                )
            )
    return speakers


def say(espeak: Espeak, text: str, speaker: Speaker) -> np.ndarray:
    """The text in this speaker's voice: int16 [samples] at `espeak.sample_rate`."""
    return espeak.say(
        text,
        f"{speaker.accent}+{speaker.variant}",
        pitch=speaker.pitch,
        pitch_range=speaker.pitch_range,
        rate=speaker.rate,
    )


def write_clip(folder: Path, number: str, samples: np.ndarray, text: str, speaker: Speaker, locale: str) -> Utterance:
    """Write clips/SPEAKER/SPEAKER-NUMBER.flac below `folder`; the utterance has its path relative to `folder`.

    `samples`: int16 at SAMPLE_RATE.
    """
    import soundfile

    name = f"{speaker.id}-{number}"
    path = f"clips/{speaker.id}/{name}.flac"
    soundfile.write(folder / path, samples, SAMPLE_RATE)
    return Utterance(
        id=name,
        duration=len(samples) / SAMPLE_RATE,
        wav=path,
        speaker=speaker.id,
        text=text,
        locale=locale,
        gender=speaker.gender,
        accent=speaker.accent,
        split=speaker.split,
    )


def record(speech: np.ndarray, sample_rate: int, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Record `speech` (int16, shape (samples,), at `sample_rate` Hz) with this speaker's microphone and noise.

    Returns int16 at SAMPLE_RATE, with 0.1-0.25 s of noise alone before and after. The SNR is the mean
    power of the speech, its pauses included, over that of the noise. Raises ValueError for silence.
    """
    from scipy.signal import lfilter, resample_poly, sosfilt  # slow to import, and not needed for --help

    # Playback at `tract` times the rate sounds like a shorter or longer vocal tract. The small denominator keeps the
    # resampling filter short; the error of the rate is a fraction of a percent.
    ratio = Fraction(SAMPLE_RATE / (sample_rate * speaker.tract)).limit_denominator(200)
    samples = resample_poly(speech / 32768, ratio.numerator, ratio.denominator)
    samples = sosfilt(_band(speaker.high_pass, speaker.low_pass), samples)
    samples = lfilter([1, -speaker.tilt], [1], samples)
    peak = np.abs(samples).max(initial=0)
    if peak == 0:
        raise ValueError("there is no speech to record")
    samples *= 10 ** (speaker.peak_db / 20) / peak

    before, after = rng.integers(SAMPLE_RATE // 10, SAMPLE_RATE // 4, size=2, endpoint=True)
    noise = lfilter([1], [1, -speaker.noise_pole], rng.standard_normal(before + len(samples) + after))
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-speaker.snr_db / 20)
    noise[before : before + len(samples)] += samples
    heard: np.ndarray = np.clip(np.round(noise * 32768), -32768, 32767).astype(np.int16)
    return heard


@lru_cache(maxsize=16)
def _band(high_pass: int, low_pass: int) -> np.ndarray:
    from scipy.signal import butter

    return np.vstack(
        [
            butter(1, high_pass, "highpass", fs=SAMPLE_RATE, output="sos"),
            butter(4, low_pass, "lowpass", fs=SAMPLE_RATE, output="sos"),
        ]
    )
