"""A long recording cut into windows in its pauses; of a pause hardly more than its edges is left."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn import functional

from asr_fed.transcribe.speech import STEP_SECONDS

STEPS_PER_SECOND = 100
QUIET = 0.3  # seconds over which quiet is measured: a pause between words, longer than the silence in a stop consonant
PAUSE = 0.5  # seconds without speech that end a window
EDGE = 0.25  # seconds of a pause that stay before and after the words, as utterances of training have them


def cut_into_windows(
    blocks: Iterable[torch.Tensor],
    sample_rate: int,
    seconds: float,
    detect: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[tuple[int, torch.Tensor]]:
    """The first sample, and the float32 [samples], of each window: at most so many seconds with speech in them.

    A window lasts from one pause to the next. Speech that goes on for longer is cut at the quietest place of what would
    be the second half of a window.

    Args:
        blocks: the recording, mono, in pieces of any length.
        detect: says of each STEP_SECONDS of a block whether there is speech (`SpeechDetector`).
    """
    longest, pause, edge = (round(each * sample_rate) for each in (seconds, PAUSE, EDGE))
    held, first = torch.empty(0), 0  # what may still be needed of the recording, from which sample on
    start, end = -1, 0  # of the speech that is not cut yet: where its window begins (-1: there is none), where it ends

    def cut(stop: int, rest: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Windows up to `stop`, until no more than `rest` samples are left."""
        nonlocal start
        while stop - start > rest:
            signal = held[start - first : stop - first][:longest]
            if stop - start > longest:
                signal = signal[: longest // 2 + quietest_place(signal[longest // 2 :], sample_rate)]
            yield start, signal
            start += len(signal)

    for block in blocks:
        begin = first + len(held)
        held = torch.cat([held, block])
        ends = first + len(held)
        for step in detect(block).nonzero()[:, 0].tolist():
            place = begin + round(step * STEP_SECONDS * sample_rate)
            if start >= 0 and place - end >= pause:
                yield from cut(end + edge, 0)
                start = -1
            if start < 0:
                start = max(first, place - edge)
            end = min(begin + round((step + 1) * STEP_SECONDS * sample_rate), ends)
        if start >= 0 and ends - end >= pause:
            yield from cut(end + edge, 0)
            start = -1
        if start >= 0:
            yield from cut(end, longest)
        kept = start if start >= 0 else max(first, ends - edge)
        held, first = held[kept - first :], kept
    if start >= 0:
        yield from cut(min(end + edge, first + len(held)), 0)


def quietest_place(signal: torch.Tensor, sample_rate: int) -> int:
    """The sample in the middle of the QUIET seconds with the least energy; of several such the one in their middle."""
    step = sample_rate // STEPS_PER_SECOND
    energies = functional.avg_pool1d(signal[None] ** 2, step)[0] if len(signal) >= step else signal[:0]
    steps = min(round(QUIET * STEPS_PER_SECOND), len(energies))
    if steps == 0:
        return len(signal)
    energies = energies.unfold(0, steps, 1).mean(-1)
    places = (energies == energies.min()).nonzero()[:, 0]
    return int(places[len(places) // 2]) * step + steps * step // 2
