"""Cut a long recording into windows at its pauses; only the edges of a pause are kept."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn import functional

from asr_fed.transcribe.speech import STEP_SECONDS

STEPS_PER_SECOND = 100
QUIET = 0.3  # seconds over which energy is measured: a pause between words, longer than the silence of a stop
PAUSE = 0.5  # seconds without speech that end a window
EDGE = 0.25  # seconds of a pause that are kept before and after words, as in training utterances


def cut_into_windows(
    blocks: Iterable[torch.Tensor],
    sample_rate: int,
    seconds: float,
    detect: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[tuple[int, torch.Tensor]]:
    """The first sample of each window, and its samples, float32. A window has speech and is at most `seconds` long.

    A window lasts from one pause to the next. Longer speech is cut at the quietest place in the second half of a
    window.

    Args:
        blocks: the recording, mono, in pieces of any length.
        detect: says for each STEP_SECONDS of a block whether there is speech (`SpeechDetector`).
    """
    longest, pause, edge = (round(each * sample_rate) for each in (seconds, PAUSE, EDGE))
    held, first = torch.empty(0), 0  # samples that may still be needed, and the position of the first of them
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
    """The middle sample of the QUIET seconds with the least energy; the middle one if there are several."""
    step = sample_rate // STEPS_PER_SECOND
    energies = functional.avg_pool1d(signal[None] ** 2, step)[0] if len(signal) >= step else signal[:0]
    steps = min(round(QUIET * STEPS_PER_SECOND), len(energies))
    if steps == 0:
        return len(signal)
    energies = energies.unfold(0, steps, 1).mean(-1)
    places = (energies == energies.min()).nonzero()[:, 0]
    return int(places[len(places) // 2]) * step + steps * step // 2
