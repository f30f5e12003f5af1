"""Small corpora on disk, made by the tests themselves."""

from pathlib import Path

import numpy as np
import soundfile


def write_tone(path: Path, seconds: float = 1.5, *, gain: float = 0.3, rate: int = 16000) -> Path:
    """A steady tone in the format that the suffix names; gain 0 is silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = gain * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, samples.astype(np.float32), rate, format=path.suffix[1:].upper())
    return path
