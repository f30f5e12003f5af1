"""How sure a WER is, and whether two recognisers really differ on the same test set.

Utterances of one speaker are not independent, so what is drawn again by the bootstrap are speakers. The other test
is the matched pairs of Gillick and Cox (ICASSP 1989), as NIST's sctk has it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.wer import ErrorCounts, Scored

DRAWS = 10_000
DRAWS_AT_ONCE = 100  # so that memory does not grow with thousands of speakers
SEED = 0  # the same errors always give the same interval
LEVEL = 95.0  # percent
GOOD_WORDS = 2  # words that both get right, in a row, separate segments


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, in points of WER."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Recogniser A against B on the same utterances.

    difference: WER of A minus WER of B, in points; `interval` is its bootstrap interval over speakers, None with
        fewer than two speakers.
    bootstrap_p: two-sided p value from the same draws.
    segments: stretches in which either errs; matched_pairs_p: two-sided p value of the test of their mean difference,
        None with fewer than two segments.
    """

    difference: float
    interval: Interval | None
    bootstrap_p: float | None
    segments: int
    matched_pairs_p: float | None


def wer_interval(speakers: Sequence[ErrorCounts]) -> Interval | None:
    """95 % percentile bootstrap interval of the WER, drawing speakers; None with fewer than two of them.

    With a handful of speakers such an interval is too narrow rather than too wide.
    """
    if len(speakers) < 2:
        return None
    return _percentiles(_drawn_wers(speakers))


def paired_test(a: Evaluation, b: Evaluation) -> Paired:
    """Compare two evaluations of the same utterances, in whatever order. Raises ValueError where they are not."""
    by_id = {each.utterance.id: each for each in b.scored}
    pairs = [(each, by_id.get(each.utterance.id)) for each in a.scored]
    matched = [(x, y) for x, y in pairs if y is not None and x.utterance.text == y.utterance.text]
    if len(matched) < len(a.scored) or len(by_id) != len(a.scored):
        raise ValueError("the two evaluations are of different utterances")
    interval = bootstrap_p = None
    names = a.speakers.keys()
    if len(names) >= 2:
        # The same draws of speakers for both, since generator and sizes are the same.
        of_a, of_b = (_drawn_wers([own.speakers[name] for name in names]) for own in (a, b))
        interval = _percentiles(of_a - of_b)
        beyond = min(np.count_nonzero(of_a >= of_b), np.count_nonzero(of_a <= of_b))
        bootstrap_p = min(1.0, 2 * (beyond + 1) / (DRAWS + 1))
    differences = [segment for x, y in matched for segment in segment_differences(x, y)]
    p = matched_pairs_p(differences)
    return Paired(a.wer - b.wer, interval, bootstrap_p, len(differences), p)


def matched_pairs_p(differences: Sequence[int]) -> float | None:
    """p of a mean difference of 0: Z = mean / (deviation / sqrt(n)) is standard normal for many segments."""
    if len(differences) < 2:
        return None
    mean, deviation = fmean(differences), stdev(differences)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    z = mean / (deviation / math.sqrt(len(differences)))
    return math.erfc(abs(z) / math.sqrt(2))


def segment_differences(a: Scored, b: Scored) -> list[int]:
    """Errors of A minus errors of B in each segment of an utterance in which either errs.

    Segments end where both get GOOD_WORDS words in a row right, so that an error in one does not cause those of the
    next.
    """
    differences: list[int] = []
    open_segment, good = False, 0
    for of_a, of_b in zip(_errors_by_word(a), _errors_by_word(b), strict=True):
        if of_a or of_b:
            if not open_segment:
                differences.append(0)
            open_segment, good = True, 0
            differences[-1] += of_a - of_b
        else:
            good += 1
            open_segment = open_segment and good < GOOD_WORDS
    return differences


def _errors_by_word(scored: Scored) -> list[int]:
    """Errors at each word of the reference; an insertion counts for the word behind it, or for one place more."""
    errors = [0] * (scored.words.units + 1)
    place = 0
    for step in scored.alignment:
        errors[place] += step.mark != "="
        place += step.reference is not None
    return errors


def _drawn_wers(speakers: Sequence[ErrorCounts]) -> np.ndarray:
    """WER in percent, float64 [DRAWS], each of as many speakers as there are, drawn with replacement."""
    counts = np.array([(speaker.errors, speaker.units) for speaker in speakers], dtype=np.float64)
    rng = np.random.default_rng(SEED)
    drawn = [
        counts[rng.integers(len(counts), size=(DRAWS_AT_ONCE, len(counts)))].sum(axis=1)
        for _ in range(DRAWS // DRAWS_AT_ONCE)
    ]
    errors, units = np.concatenate(drawn).T
    return 100 * errors / np.maximum(units, 1)


def _percentiles(values: np.ndarray) -> Interval:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
