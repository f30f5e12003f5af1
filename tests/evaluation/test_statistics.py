"""Intervals that cover what they should, and tests that tell a difference from none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.statistics import paired_t, paired_test, wer_interval
from asr_fed.evaluation.wer import ErrorCounts, score
from asr_fed.reporting.evaluation_files import numbers

TEN = "one two three four five six seven eight nine ten"


def errs(*speakers: int) -> list[ErrorCounts]:
    """Speakers of 100 words each, with so many errors."""
    return [ErrorCounts(substitutions=errors, units=100) for errors in speakers]


def evaluation(hypotheses: dict[str, list[str]]) -> Evaluation:
    """By speaker, what was heard when each time the same ten words were said."""
    utterances, heard = [], []
    for speaker, texts in hypotheses.items():
        for number, text in enumerate(texts):
            utterances.append(Utterance(f"{speaker}-{number}", 1.0, "", speaker, TEN))
            heard.append(text)
    return Evaluation(score(utterances, heard))


def heard(wrong: int) -> str:
    return " ".join(["x"] * wrong + TEN.split()[wrong:])


def test_an_interval_holds_the_rate_and_is_wider_where_speakers_differ_more() -> None:
    alike, unlike = wer_interval(errs(19, 20, 20, 21)), wer_interval(errs(0, 10, 30, 40))
    assert alike is not None and unlike is not None
    assert 18 < alike.low < 20 < alike.high < 22
    assert 0 < unlike.low < 20 - 5 and unlike.high > 20 + 15
    assert unlike == wer_interval(errs(40, 30, 10, 0)), "the same errors, another interval"


def test_without_a_spread_over_speakers_there_is_no_interval() -> None:
    assert wer_interval([]) is None is wer_interval(errs(20))
    assert wer_interval(errs(0, 0, 0)) is None, "no error in few words does not make the rate 0"
    assert wer_interval([ErrorCounts(substitutions=1, units=3), ErrorCounts(substitutions=2, units=6)]) is None


def test_the_interval_is_students_on_the_jackknife_of_the_logarithm() -> None:
    """By hand: rates 0.1, 0.2, 0.3 in equal shares; without each the rate is 0.25, 0.2, 0.15; t(2) is 4.3027."""
    error = math.sqrt(2 / 3 * (0.05**2 + 0.05**2))
    interval = wer_interval(errs(10, 20, 30))
    assert interval is not None
    factor = math.exp(4.302653 * error / 0.2)
    assert (interval.low, interval.high) == (pytest.approx(20 / factor), pytest.approx(20 * factor))


def test_an_interval_stays_above_0_and_finite_with_two_speakers_as_unlike_as_can_be() -> None:
    interval = wer_interval([ErrorCounts(substitutions=1, units=1), ErrorCounts(units=9999)])
    assert interval is not None
    assert 0 <= interval.low < 0.01 < interval.high < 1000
    worse_than_nothing = wer_interval([ErrorCounts(insertions=each, units=100) for each in (90, 110, 130)])
    assert worse_than_nothing is not None and worse_than_nothing.high > 130, "a WER may exceed 100"


@pytest.mark.parametrize("speakers", [4, 6, 10])
def test_with_few_speakers_too_intervals_cover_and_a_true_null_stands(speakers: int) -> None:
    """The percentile bootstrap covers 81, 85 and 90 % here, and its p is below 0.05 in 16, 13 and 9 % of the cases."""
    rng = np.random.default_rng(speakers)
    trials, covered, rejected = 1500, 0, 0
    for _ in range(trials):
        words = rng.integers(50, 151, speakers)
        own = rng.beta(3, 12, speakers)  # the speakers' rates, 20 % on average
        a, b = (rng.binomial(words, np.clip(own + rng.normal(0, 0.03, speakers), 0, 1)) for _ in range(2))
        first, second = (
            [ErrorCounts(substitutions=int(e), units=int(w)) for e, w in zip(c, words, strict=True)] for c in (a, b)
        )
        interval = wer_interval(first)
        assert interval is not None
        covered += interval.low <= 20 <= interval.high
        p = paired_t(first, second)[1]
        assert p is not None
        rejected += p < 0.05
    assert 0.93 <= covered / trials <= 0.975
    assert 0.03 <= rejected / trials <= 0.065


def test_p_is_below_005_where_the_interval_excludes_0() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        a, b = (errs(*map(int, rng.integers(0, 30, 5) + shift)) for shift in (0, 12))
        interval, p = paired_t(a, b)
        assert interval is not None and p is not None
        seen.add(p < 0.05)
        assert (p < 0.05) == (interval.low > 0 or interval.high < 0)
    assert seen == {True, False}


def test_a_difference_that_all_speakers_share_exactly_is_not_certain() -> None:
    assert paired_t(errs(3, 3), errs(2, 2)) == (None, 0.5)
    assert paired_t(errs(3, 4, 5), errs(2, 3, 4)) == (None, 0.25)
    assert paired_t(errs(3, 4), errs(3, 4)) == (None, 1.0)
    assert paired_t(errs(3), errs(2)) == (None, None)
    for many in (errs(*[50] * 400, 49), errs(*[50] * 2000)):
        p = paired_t(many, errs(*[0] * len(many)))[1]
        assert p is not None and p > 0


def test_doubt_is_counted_over_speakers_and_not_over_utterances() -> None:
    """Ten utterances of each of two speakers are not twenty independent ones."""
    often = evaluation({"a": [heard(1)] * 10, "b": [heard(5)] * 10})
    once = evaluation({"a": [heard(1)], "b": [heard(5)]})
    assert numbers(often)["wer_high"] == pytest.approx(numbers(once)["wer_high"])
    better = evaluation({"a": [heard(0)] * 10, "b": [heard(3)] * 10})
    found = paired_test(often, better)
    assert found.paired_t_p is not None and found.paired_t_p > 0.05


def test_a_clear_difference_is_told_from_none() -> None:
    names = [f"s{number}" for number in range(12)]
    worse = evaluation({name: [heard(2 + number % 3), heard(number % 3)] for number, name in enumerate(names)})
    better = evaluation({name: [heard(1), heard(number % 3)] for number, name in enumerate(names)})
    found = paired_test(worse, better)
    assert found.difference == pytest.approx(10.0)
    assert found.interval is not None and found.interval.low > 0
    assert found.paired_t_p is not None and found.paired_t_p < 0.01
    assert found.matched_pairs_p is not None and found.matched_pairs_p < 0.01
    same = paired_test(better, better)
    assert (same.difference, same.interval, same.paired_t_p, same.matched_pairs_p) == (0.0, None, 1.0, 1.0)


def test_noise_alone_is_rarely_called_a_difference() -> None:
    rng = np.random.default_rng(5)
    false_alarms = 0
    for _ in range(60):
        a, b = (
            evaluation({f"s{n}": [heard(int(rng.integers(0, 4))) for _ in range(5)] for n in range(15)})
            for _ in range(2)
        )
        p = paired_test(a, b).matched_pairs_p
        assert p is not None
        false_alarms += p < 0.05
    assert false_alarms <= 8  # 3 are expected


@given(st.lists(st.integers(0, 10), min_size=2, max_size=6), st.lists(st.integers(0, 10), min_size=2, max_size=6))
def test_comparing_the_other_way_round_turns_the_sign(a: list[int], b: list[int]) -> None:
    size = min(len(a), len(b))
    one, other = (evaluation({f"s{i}": [heard(wrong)] for i, wrong in enumerate(each[:size])}) for each in (a, b))
    there, back = paired_test(one, other), paired_test(other, one)
    assert there.difference == pytest.approx(-back.difference)
    assert there.segments == back.segments and there.matched_pairs_p == back.matched_pairs_p
    if there.interval is not None and back.interval is not None:
        assert there.interval.low == pytest.approx(-back.interval.high)
    assert (there.interval is None) == (back.interval is None)
    assert there.paired_t_p == back.paired_t_p


def test_other_utterances_cannot_be_compared() -> None:
    one = evaluation({"a": [TEN], "b": [TEN]})
    renamed = Evaluation(
        tuple(replace(each, utterance=replace(each.utterance, speaker="someone")) for each in one.scored)
    )
    for other in (
        evaluation({"a": [TEN]}),
        evaluation({"a": [TEN], "c": [TEN]}),
        evaluation({"a": [TEN] * 2, "b": [TEN]}),
        renamed,
    ):
        with pytest.raises(ValueError, match="different utterances"):
            paired_test(one, other)
