"""The uncertainty of a WER, and whether two recognisers really differ on the same test set.

Utterances of one speaker are not independent, so uncertainty is estimated over speakers: the jackknife leaves out one
speaker at a time, and Student's t with (speakers - 1) degrees of freedom allows for their small number. The bootstrap
does not: with six speakers its 95 % interval covers the true WER in only 84 % of the cases. benchmarks/calibration.py
measures how often these intervals and tests are right.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.matched_pairs import matched_pairs_p, segment_differences
from asr_fed.evaluation.wer import ErrorCounts, Scored

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, in points of WER."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Recogniser A against B on the same utterances.

    difference: WER of A minus WER of B, in points; `interval` is its 95 % interval over speakers, None with fewer than
        two speakers, or if the difference is the same for all.
    paired_t_p: two-sided p value over speakers, above 0; below 0.05 where the interval excludes 0. None with fewer than
        two speakers.
    segments: stretches in which A or B has an error. matched_pairs_p: two-sided p value of their mean difference, above
        0; None if there are no segments.
    """

    difference: float
    interval: Interval | None
    paired_t_p: float | None
    segments: int
    matched_pairs_p: float | None


def wer_interval(speakers: Sequence[ErrorCounts]) -> Interval | None:
    """95 % interval of the WER for other speakers of the same population.

    A t interval of the logarithm of the WER with the jackknife's standard error, because a WER cannot be negative and
    is skewed. Where this gives more than 100 %, it is limited by the plain t interval, or by 100 %.

    None with fewer than two speakers, or if all have the same rate: the spread cannot be estimated then.
    """
    if len(speakers) < 2:
        return None
    rate, error = _jackknife([each.errors for each in speakers], [each.units for each in speakers])
    if error == 0:
        return None
    margin = error * _t_quantile(len(speakers))
    factor = math.exp(min(margin / rate, 100))
    return Interval(100 * rate / factor, 100 * min(rate * factor, max(1.0, rate + margin)))


def paired_t(a: Sequence[ErrorCounts], b: Sequence[ErrorCounts]) -> tuple[Interval | None, float | None]:
    """Interval and p value of the difference in WER of A and B, each with the same speakers in the same order.

    Student's t test with the jackknife's standard error. If the difference is the same for all speakers, that error is
    0, and p is that of the sign test.
    """
    if len(a) < 2:
        return None, None
    errors = [of_a.errors - of_b.errors for of_a, of_b in zip(a, b, strict=True)]
    difference, error = _jackknife(errors, [each.units for each in a])
    if error == 0:
        return None, 1.0 if difference == 0 else max(0.5 ** (len(a) - 1), sys.float_info.min)
    margin = error * _t_quantile(len(a))
    p = 2 * float(stdtr(len(a) - 1, -abs(difference) / error))
    return Interval(100 * (difference - margin), 100 * (difference + margin)), max(p, sys.float_info.min)


def paired_test(a: Evaluation, b: Evaluation) -> Paired:
    """Compare two evaluations of the same utterances, in any order. Raises ValueError if the utterances differ."""

    def said(each: Scored) -> tuple[str, str]:
        return each.utterance.speaker, each.utterance.text

    by_id = {each.utterance.id: each for each in b.scored}
    pairs = [(each, by_id.get(each.utterance.id)) for each in a.scored]
    matched = [(x, y) for x, y in pairs if y is not None and said(x) == said(y)]
    if len(matched) < len(a.scored) or len(by_id) != len(a.scored):
        raise ValueError("the two evaluations are of different utterances")
    of_a, of_b = a.speakers, b.speakers
    interval, paired_t_p = paired_t(list(of_a.values()), [of_b[name] for name in of_a])
    differences = [segment for x, y in matched for segment in segment_differences(x, y)]
    return Paired(a.wer - b.wer, interval, paired_t_p, len(differences), matched_pairs_p(differences))


def describe_pair(paired: Paired) -> str:
    """One line: the difference, its interval and both tests."""
    text = f"{paired.difference:+.2f} points of WER"
    if paired.interval is not None:
        text += f" (95 % interval over speakers {paired.interval.low:+.2f} to {paired.interval.high:+.2f})"
    if paired.paired_t_p is not None:
        text += f", paired t over speakers p {paired.paired_t_p:.3g}"
    if paired.matched_pairs_p is not None:
        text += f", matched pairs p {paired.matched_pairs_p:.3g} over {paired.segments} segments"
    return text


def read_paired(record: Mapping[str, Any]) -> Paired:
    """Read a `Paired` from summary.json or wer.json."""
    interval = record["interval"]
    return Paired(**{**record, "interval": None if interval is None else Interval(**interval)})


def _jackknife(errors: Sequence[int], units: Sequence[int]) -> tuple[float, float]:
    """Sum of errors over sum of units, and its standard error; 0 if each speaker has the same rate.

    The standard error of Quenouille and Tukey: from the spread of the rates that leave out one speaker each.
    """
    error, unit = np.array(errors, dtype=np.int64), np.array(units, dtype=np.int64)
    rate = error.sum() / max(1, unit.sum())
    if np.all(error * unit.sum() == error.sum() * unit):  # compared in whole numbers, to avoid rounding
        return float(rate), 0.0
    left = (error.sum() - error) / np.maximum(1, unit.sum() - unit)
    variance = (len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2)
    return float(rate), math.sqrt(variance)


def _t_quantile(speakers: int) -> float:
    return float(stdtrit(speakers - 1, (1 + LEVEL) / 2))
