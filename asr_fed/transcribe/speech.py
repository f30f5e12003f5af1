"""Where somebody speaks, by the voice activity detector silero-vad, which brings its model in its package."""

import functools
from typing import Any

import torch
from torchaudio.functional import resample

RATE, STEP = 16_000, 512  # what the detector hears: Hz, and samples that it judges at a time
STEP_SECONDS = STEP / RATE
PROBABLE = (
    0.3  # probability from which a step is speech; lower than silero's 0.5: a pause too few costs less than a word
)
# A block is judged in so many rows at once, each from so many steps before its own on (0.5 s), in which the detector
# finds its way: four times as fast as step by step, and 3 in 1,000 steps differ.
ROWS, BEFORE = 8, 16


class SpeechDetector:
    """Told a recording block by block, it says of each STEP_SECONDS whether there is speech in it."""

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
