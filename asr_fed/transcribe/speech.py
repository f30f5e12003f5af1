"""Voice activity detection with silero-vad, whose package contains the model."""

import functools
from typing import Any

import torch
from torchaudio.functional import resample

RATE, STEP = 16_000, 512  # of the detector: sample rate in Hz, and samples per decision
STEP_SECONDS = STEP / RATE
PROBABLE = (
    0.3  # probability from which a step is speech; below silero's 0.5: a lost word costs more than a missed pause
)
# A block is processed as this many rows at once. Each row starts this many steps early (0.5 s), in which the detector
# settles. That is four times as fast as step by step; 3 in 1,000 steps differ.
ROWS, BEFORE = 8, 16


class SpeechDetector:
    """Gets a recording block by block, and says for each STEP_SECONDS whether it has speech."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._before = torch.zeros(BEFORE * STEP)

    @torch.no_grad()
    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """float32 [samples] -> bool [steps]; the last step may be shorter."""
        if self.sample_rate != RATE:
            block = resample(block, self.sample_rate, RATE)
        steps = -(-len(block) // STEP)
        each = -(-steps // ROWS)
        heard = torch.cat([self._before, block])
        self._before = heard[-len(self._before) :]
        heard = torch.nn.functional.pad(heard, (0, (ROWS * each + BEFORE) * STEP - len(heard)))
        rows = heard.unfold(0, (each + BEFORE) * STEP, each * STEP).split(STEP, dim=1)
        detector = _silero()
        detector.reset_states()
        probabilities = torch.cat([detector(step.contiguous(), RATE) for step in rows], dim=1)
        return probabilities[:, BEFORE:].flatten()[:steps] >= PROBABLE


@functools.cache
def _silero() -> Any:
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad  # sets torch to one thread when imported

    torch.set_num_threads(threads)
    return load_silero_vad()
