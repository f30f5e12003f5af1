"""A long recording cut into windows where nobody speaks, as far as that can be heard."""

from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional

STEPS_PER_SECOND = 100
PAUSE = 0.3  # seconds over which quiet is measured: a pause between words, longer than the silence in a stop consonant


def cut_into_windows(blocks: Iterable[torch.Tensor], sample_rate: int, seconds: float) -> Iterator[torch.Tensor]:
    """Windows of at most so many seconds that are, one behind the other, the recording: float32 [samples].

    One that is no longer is one window. Else each ends at the quietest place of what would be its second half.

    Args:
        blocks: the recording, mono, in pieces of any length.
    """
    longest = round(seconds * sample_rate)
    held = torch.empty(0)
    for block in blocks:
        held = torch.cat([held, block])
        while len(held) > longest:
            earliest = longest // 2
            cut = earliest + quietest_place(held[earliest:longest], sample_rate)
            yield held[:cut]
            held = held[cut:]
    if len(held):
        yield held


def quietest_place(signal: torch.Tensor, sample_rate: int) -> int:
    """The sample in the middle of the PAUSE with the least energy; of several as quiet the one in their middle."""
    step = sample_rate // STEPS_PER_SECOND
    energies = functional.avg_pool1d(signal[None] ** 2, step)[0] if len(signal) >= step else signal[:0]
    steps = min(round(PAUSE * STEPS_PER_SECOND), len(energies))
    if steps == 0:
        return len(signal)
    energies = energies.unfold(0, steps, 1).mean(-1)
    places = (energies == energies.min()).nonzero()[:, 0]
    return int(places[len(places) // 2]) * step + steps * step // 2
