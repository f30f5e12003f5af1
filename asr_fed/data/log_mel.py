"""From waveform to the recogniser's features.

An exported folder carries this file's source: nothing of asr_fed is imported here.
"""

import math

import torch
from speechbrain.lobes.features import Fbank

# The loudest frames may be a click, so the level of the speech is that of the next frame. This is a number and not a
# share, because a share would change with the silence around the words.
CLICK_FRAMES = 10


def log_mel(
    signal: torch.Tensor,
    fbank: Fbank,
    subtract_mean: bool,
    mean_gate_db: float | None,
    *,
    with_silence: bool = False,
) -> torch.Tensor:
    """Waveform [samples] -> float16 [frames, n_mels], as the feature cache holds it; `fbank` is SpeechBrain's.

    Args:
        mean_gate_db: frames this far below the loud ones (`loud_frames`) do not count in the mean; None: all count.
        with_silence: add a frame that has the features of digital silence in this recording.
    """
    with torch.no_grad():
        frames = fbank(signal[None])[0]
        silence = digital_silence(frames, fbank) if with_silence else frames[:0]
        mean = loud_frames(frames, mean_gate_db).mean(dim=0) if subtract_mean else 0.0
        return (torch.cat([frames, silence]) - mean).to(torch.float16)


def loud_frames(frames: torch.Tensor, gate_db: float | None) -> torch.Tensor:
    """The rows of `frames`, in dB [frames, n_mels], whose power is at most `gate_db` below the loud ones.

    They are speech: silence and low noise around the words, however long, change nothing. (The gate of ITU-R BS.1770
    is relative to a mean over time, which pauses of the recording's own noise lower.)
    """
    if gate_db is None:
        return frames
    decibel = 10 / math.log(10)
    power = torch.logsumexp(frames / decibel, dim=1) * decibel
    loud = power.topk(min(CLICK_FRAMES, len(power) - 1) + 1).values[-1]
    return frames[power >= loud - gate_db]


def digital_silence(frames: torch.Tensor, fbank: Fbank) -> torch.Tensor:
    """The features [1, n_mels] that `fbank` gives zeros in the recording with these `frames`."""
    zeros = fbank(frames.new_zeros(1, 1))[0]
    clamped: torch.Tensor = zeros.clamp(min=frames.max() - fbank.compute_fbanks.top_db)
    return clamped
