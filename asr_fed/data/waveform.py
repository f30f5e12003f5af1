"""A recording's samples as features, for encoders that read waveforms: a frame is one sample."""

import torch
from torch.nn import functional


def waveform(signal: torch.Tensor, *, with_silence: bool = False) -> torch.Tensor:
    """Waveform [samples] -> float16 [samples, 1], as the feature cache holds it.

    What is above full scale, as in unscaled float files, is scaled down to it: float16 ends at 65,504. Encoders that
    want samples of unit variance scale them themselves, behind the augmentation, as they would hear it.

    Args:
        with_silence: add a sample of digital silence.
    """
    samples = signal / signal.abs().max().clamp(min=1)
    return functional.pad(samples, (0, int(with_silence)))[:, None].to(torch.float16)
