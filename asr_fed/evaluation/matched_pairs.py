"""The matched-pairs test of Gillick and Cox (ICASSP 1989): do two recognisers differ on the same utterances?

Segments are cut as in NIST's sctk 2.4.12 (`sc_stats -t mapsswe`), and so is the test from EXACT_BELOW segments on. The
alignments are jiwer's, which give every error weight 1; sclite gives a substitution 4 and the others 3.
"""

import math
import sys
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from asr_fed.evaluation.wer import Scored

GOOD_WORDS = 2  # consecutive words that both recognise correctly end a segment
EXACT_BELOW = 50  # segments: with fewer, the normal approximation is too rough


def segment_differences(a: Scored, b: Scored) -> list[int]:
    """Errors of A minus errors of B in each segment of an utterance in which A or B has an error.

    A segment ends where both recognise GOOD_WORDS consecutive words correctly, so that errors of different segments are
    independent. An inserted word interrupts such a sequence; the next one can begin with the word after it.
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
    """Two-sided p value, above 0, for a mean difference of 0; None if there is no segment.

    With fewer than EXACT_BELOW segments it is exact: the share of all assignments of signs to the differences whose sum
    is at least as far from 0. Otherwise it is that of Z = mean / (deviation / sqrt(n)), which is nearly standard
    normal.
    """
    if not differences:
        return None
    if len(differences) < EXACT_BELOW:
        return sign_flip_p(differences)
    deviation = stdev(differences)
    if deviation == 0:  # all segments are equal: Z is not defined, the test of signs is
        return sign_flip_p(differences)
    z = fmean(differences) / (deviation / math.sqrt(len(differences)))
    return max(math.erfc(abs(z) / math.sqrt(2)), sys.float_info.min)


def sign_flip_p(differences: Sequence[int]) -> float:
    """Share of the 2^n equally likely assignments of signs for which |sum| is at least the observed one; never 0."""
    chances = np.ones(1)  # probability of every sum from -reach to reach
    for size in filter(None, map(abs, differences)):
        spread = np.zeros(len(chances) + 2 * size)
        spread[: len(chances)] += chances / 2
        spread[2 * size :] += chances / 2
        chances = spread
    reach, seen = len(chances) // 2, abs(sum(differences))
    return 1.0 if seen == 0 else max(float(2 * chances[reach + seen :].sum()), sys.float_info.min)


def _errors_by_word(scored: Scored) -> list[tuple[int, int]]:
    """(words inserted before it, errors at it) for each word of the reference; the last entry is (words inserted at the
    end, 0)."""
    inserted, wrong = [0] * (scored.words.units + 1), [0] * (scored.words.units + 1)
    place = 0
    for step in scored.alignment:
        if step.reference is None:
            inserted[place] += 1
        else:
            wrong[place] += step.mark != "="
            place += 1
    return list(zip(inserted, wrong, strict=True))
