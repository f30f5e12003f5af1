"""From waveform to the recogniser's features.

An exported folder carries this file's source: nothing of asr_fed is imported here.
"""

import math

import torch
from speechbrain.lobes.features import Fbank

# The loudest frames may be a click, so the level of the speech is that of the next frame. This is a number and not a
# share, because a share would change with the silence around the words.
CLICK_FRAMES = 10
# The level of the noise is that of the loudest of so many neighbours, in the quietest place. A mean would be too low
# where digital silence begins or ends: there a frame holds only a part of the noise.
NOISE_FRAMES = 5
# Frames this far below the loud ones are silence, digital or dithered, and say nothing about the noise.
AUDIBLE_DB = 50


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

    Where the noise is less than twice `gate_db` below them, frames that are nearer to the noise than to the loud frames
    are left out too. What remains is speech, so silence and noise around the words, however long, change nothing. (The
    gate of ITU-R BS.1770 is relative to a mean over time, which pauses of the recording's own noise lower. That the
    quietest place shows the noise is the idea of minimum statistics: R. Martin, IEEE Trans. Speech Audio Process. 9,
    2001.)
    """
    if gate_db is None:
        return frames
    decibel = 10 / math.log(10)
    power = torch.logsumexp(frames / decibel, dim=1) * decibel
    loud = power.topk(min(CLICK_FRAMES, len(power) - 1) + 1).values[-1]
    audible = power[power >= loud - AUDIBLE_DB]
    noise = audible.unfold(0, min(NOISE_FRAMES, len(audible)), 1).amax(dim=1).min()
    return frames[power >= loud - ((loud - noise) / 2).clamp(max=gate_db)]


def digital_silence(frames: torch.Tensor, fbank: Fbank) -> torch.Tensor:
    """The features [1, n_mels] that `fbank` gives zeros in the recording with these `frames`."""
    zeros = fbank(frames.new_zeros(1, 1))[0]
    clamped: torch.Tensor = zeros.clamp(min=frames.max() - fbank.compute_fbanks.top_db)
    return clamped
