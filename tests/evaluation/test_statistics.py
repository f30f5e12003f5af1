"""Intervals that cover what they should, tests that tell a difference from none, and segments by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.statistics import matched_pairs_p, paired_test, segment_differences, wer_interval
from asr_fed.evaluation.wer import ErrorCounts, score

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
    alike, unlike = wer_interval(errs(20, 20, 20, 20)), wer_interval(errs(0, 10, 30, 40))
    assert alike is not None and unlike is not None
    assert alike.low == alike.high == pytest.approx(20)
    assert unlike.low < 20 - 5 and unlike.high > 20 + 5
    assert unlike == wer_interval(errs(0, 10, 30, 40)), "the same errors, another interval"
    assert wer_interval(errs(20)) is None is wer_interval([])


def test_about_95_of_100_intervals_cover_the_true_rate() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        interval = wer_interval(errs(*(int(rng.integers(0, 41)) for _ in range(40))))  # 20 % on average
        assert interval is not None
        covered += interval.low <= 20 <= interval.high
    assert 88 <= covered <= 100


def test_a_long_speaker_counts_for_more() -> None:
    interval = wer_interval([ErrorCounts(substitutions=90, units=100), ErrorCounts(units=9900)])
    assert interval is not None and interval.low == 0 and interval.high == pytest.approx(90)


def test_segments_end_where_both_get_two_words_right() -> None:
    utterance = Utterance("u", 1.0, "", "s", TEN)
    good, one, far, near, inserted, late = score(
        [utterance] * 6,
        [
            TEN,
            TEN.replace("two", "x"),
            TEN.replace("two", "x").replace("five", "x"),
            TEN.replace("two", "x").replace("four", "x"),
            TEN.replace("two", "two x"),
            TEN + " x",
        ],
    )
    assert segment_differences(good, good) == []
    assert segment_differences(one, good) == [1] and segment_differences(good, one) == [-1]
    assert segment_differences(far, good) == [1, 1]
    assert segment_differences(near, good) == [2]
    assert segment_differences(one, near) == [-1]
    assert segment_differences(inserted, one) == [0]
    assert segment_differences(late, good) == [1]


def test_the_matched_pairs_p_is_that_of_z() -> None:
    differences = [1, 0, 1, 1, 0, -1, 1, 1]
    z = np.mean(differences) / (np.std(differences, ddof=1) / math.sqrt(len(differences)))
    p = matched_pairs_p(differences)
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert matched_pairs_p([-d for d in differences]) == p
    assert matched_pairs_p([0, 0]) == 1.0 and matched_pairs_p([1, 1]) == 0.0
    assert matched_pairs_p([1]) is None is matched_pairs_p([])


def test_a_clear_difference_is_told_from_none() -> None:
    names = [f"s{number}" for number in range(12)]
    worse = evaluation({name: [heard(3), heard(number % 3)] for number, name in enumerate(names)})
    better = evaluation({name: [heard(1), heard(number % 3)] for number, name in enumerate(names)})
    found = paired_test(worse, better)
    assert found.difference == pytest.approx(10.0)
    assert found.interval is not None and found.interval.low > 0
    assert found.bootstrap_p is not None and found.bootstrap_p < 0.01
    assert found.matched_pairs_p is not None and found.matched_pairs_p < 0.01
    same = paired_test(better, better)
    assert (same.difference, same.bootstrap_p, same.matched_pairs_p) == (0.0, 1.0, 1.0)


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
    assert there.interval is not None and back.interval is not None
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert there.bootstrap_p == back.bootstrap_p


def test_other_utterances_cannot_be_compared() -> None:
    one = evaluation({"a": [TEN], "b": [TEN]})
    for other in (
        evaluation({"a": [TEN]}),
        evaluation({"a": [TEN], "c": [TEN]}),
        evaluation({"a": [TEN] * 2, "b": [TEN]}),
    ):
        with pytest.raises(ValueError, match="different utterances"):
            paired_test(one, other)
