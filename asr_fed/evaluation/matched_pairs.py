"""The matched-pairs test of Gillick and Cox (ICASSP 1989): do two recognisers differ on the same utterances?

Segments are cut, and from EXACT_BELOW of them on judged, as NIST's sctk 2.4.12 does (`sc_stats -t mapsswe`). Alignments
are ours: jiwer counts every error once, where sclite weighs a substitution 4 and the others 3.
"""

import math
import sys
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from asr_fed.evaluation.wer import Scored

GOOD_WORDS = 2  # words that both get right, in a row, end a segment
EXACT_BELOW = 50  # segments: with fewer the mean is not normal enough


def segment_differences(a: Scored, b: Scored) -> list[int]:
    """Errors of A minus errors of B in each segment of an utterance in which either errs.

    A segment ends where both get GOOD_WORDS words in a row right, so that an error in one does not cause those of the
    next. An inserted word breaks such a row, and the word behind it can begin the next.
    """
    differences: list[int] = []
    good = GOOD_WORDS
    for (before_a, at_a), (before_b, at_b) in zip(_errors_by_word(a), _errors_by_word(b), strict=True):
        for of_a, of_b, is_word in ((before_a, before_b, False), (at_a, at_b, True)):
            if of_a or of_b:
                if good >= GOOD_WORDS:
                    differences.append(0)
                good = 0
                differences[-1] += of_a - of_b
            else:
                good += is_word
    return differences


def matched_pairs_p(differences: Sequence[int]) -> float | None:
    """Two-sided p value, above 0, of a mean difference of 0; None without a segment.

    With fewer than EXACT_BELOW segments it is the share of all ways to give the differences their signs whose sum is at
    least as far from 0 (exact), else that of Z = mean / (deviation / sqrt(n)), which is nearly standard normal.
    """
    if not differences:
        return None
    if len(differences) < EXACT_BELOW:
        return sign_flip_p(differences)
    deviation = stdev(differences)
    if deviation == 0:  # every segment alike: no spread to judge by, but each sign is still a toss
        return sign_flip_p(differences)
    z = fmean(differences) / (deviation / math.sqrt(len(differences)))
    return max(math.erfc(abs(z) / math.sqrt(2)), sys.float_info.min)


def sign_flip_p(differences: Sequence[int]) -> float:
    """Share of the 2^n equally likely signs with which |sum| is at least what it is; never 0."""
    chances = np.ones(1)  # of every sum from -reach to reach
    for size in filter(None, map(abs, differences)):
        spread = np.zeros(len(chances) + 2 * size)
        spread[: len(chances)] += chances / 2
        spread[2 * size :] += chances / 2
        chances = spread
    reach, seen = len(chances) // 2, abs(sum(differences))
    return 1.0 if seen == 0 else max(float(2 * chances[reach + seen :].sum()), sys.float_info.min)


def _errors_by_word(scored: Scored) -> list[tuple[int, int]]:
    """Words inserted before each word of the reference and errors at it; last, (those behind them all, 0)."""
    inserted, wrong = [0] * (scored.words.units + 1), [0] * (scored.words.units + 1)
    place = 0
    for step in scored.alignment:
        if step.reference is None:
            inserted[place] += 1
        else:
            wrong[place] += step.mark != "="
            place += 1
    return list(zip(inserted, wrong, strict=True))
