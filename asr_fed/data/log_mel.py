"""From waveform to what the recogniser reads.

An exported folder carries this file's source: nothing of asr_fed is imported here.
"""

from collections.abc import Callable

import torch


def log_mel(signal: torch.Tensor, fbank: Callable[[torch.Tensor], torch.Tensor], subtract_mean: bool) -> torch.Tensor:
    """Waveform [samples] -> float16 [frames, n_mels], as the feature cache holds it; `fbank` is SpeechBrain's."""
    with torch.no_grad():
        frames = fbank(signal[None])[0]
        if subtract_mean:
            frames -= frames.mean(dim=0)
        return frames.to(torch.float16)
