"""Segments and their test against NIST's own tool and by hand."""

import itertools
import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.matched_pairs import EXACT_BELOW, matched_pairs_p, segment_differences
from asr_fed.evaluation.wer import ErrorCounts, Scored, Step

# Marks of an alignment: = right, S substitution, D deletion, I insertion.
Marks = list[str]

# sctk 2.4.12 has an example of two sentences for its tests of sc_stats; these are its alignments.
NIST = (["I", "=DS=SSS==D=II"], ["", "=DS=SSS==SS"])
# What the compiled tool (sc_stats -t mapsswe) says: segments, mean, standard deviation, Z, whether they differ.
NIST_SAYS = (3, 0.667, 0.577, 2.000, True)
# The same of alignments drawn at random: seed, utterances, errors a word of A and of B, and what it says.
DRAWN = [
    (1, 12, 0.10, 0.15, (15, -0.067, 1.486, -0.174, False)),
    (2, 12, 0.40, 0.40, (14, -0.071, 2.999, -0.089, False)),
    (3, 60, 0.10, 0.13, (66, -0.076, 1.154, -0.533, False)),
    (4, 60, 0.30, 0.25, (77, 0.597, 1.600, 3.277, True)),
    (5, 200, 0.05, 0.08, (146, -0.397, 1.034, -4.643, True)),
    (6, 200, 0.20, 0.23, (276, -0.243, 1.536, -2.626, True)),
]


def scored(marks: str) -> Scored:
    steps, reference, hypothesis = [], 0, 0
    for mark in marks:
        steps.append(Step(mark, None if mark == "I" else reference, None if mark == "D" else hypothesis))
        reference += mark != "I"
        hypothesis += mark != "D"
    return Scored(Utterance("u", 1.0, "", "s", "word " * reference), "", tuple(steps), ErrorCounts())


def segments(a: Marks, b: Marks) -> list[int]:
    return [difference for pair in zip(a, b, strict=True) for difference in segment_differences(*map(scored, pair))]


def drawn(rng: random.Random, words: int, rate: float) -> str:
    """Marks of an utterance of so many words; `random()` alone draws the same in every version of Python."""
    marks = ""
    for place in range(words + 1):
        while rng.random() < rate / 3:
            marks += "I"
        if place < words:
            marks += "=" if rng.random() >= rate else "S" if rng.random() < 0.7 else "D"
    return marks


def summary(differences: list[int]) -> tuple[int, float, float, float]:
    mean, deviation = fmean(differences), stdev(differences)
    return len(differences), mean, deviation, mean / (deviation / math.sqrt(len(differences)))


def test_the_example_of_nist_is_cut_as_their_tool_cuts_it_and_its_three_segments_prove_nothing() -> None:
    differences = segments(*NIST)
    assert summary(differences) == pytest.approx(NIST_SAYS[:4], abs=5e-4)
    # Z = 2.0 calls that a difference. Of the four ways to sign the two segments that differ, two are as extreme.
    assert matched_pairs_p(differences) == 0.5


@pytest.mark.parametrize(("seed", "utterances", "rate_a", "rate_b", "said"), DRAWN)
def test_segments_z_and_verdict_are_those_of_sctk(
    seed: int, utterances: int, rate_a: float, rate_b: float, said: tuple[int, float, float, float, bool]
) -> None:
    rng = random.Random(seed)
    words = [number % 13 for number in range(utterances)]
    a, b = ([drawn(rng, count, rate) for count in words] for rate in (rate_a, rate_b))
    differences = segments(a, b)
    count, mean, deviation, z, differ = said
    assert summary(differences) == pytest.approx((count, mean, deviation, z), abs=5e-4)
    p = matched_pairs_p(differences)
    assert p is not None and (p < 0.05) == differ
    if count >= EXACT_BELOW:
        assert p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), rel=0.01)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("==========", "==========", []),
        ("=S========", "==========", [1]),
        ("==========", "=S========", [-1]),
        ("=S==S=====", "==========", [1, 1]),  # two good words between them
        ("=S=S======", "==========", [2]),  # one
        ("=S========", "=S=S======", [-1]),
        ("=I=S=====", "========", [2]),  # the word behind an insertion is good, but one alone
        ("=I==S====", "========", [1, 1]),  # two good words: it is the first of them
        ("=S=I=S===", "=S==S===", [1]),  # an insertion breaks a row
        ("==========I", "==========", [1]),
        ("II", "", [2]),
    ],
)
def test_segments_end_where_both_get_two_words_in_a_row_right(a: str, b: str, expected: list[int]) -> None:
    assert segment_differences(scored(a), scored(b)) == expected
    assert segment_differences(scored(b), scored(a)) == [-difference for difference in expected]


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_below_fifty_segments_p_counts_the_ways_to_sign_them(differences: list[int]) -> None:
    signed = [
        abs(sum(sign * each for sign, each in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    p = sum(total >= abs(sum(differences)) for total in signed) / len(signed)
    assert matched_pairs_p(differences) == pytest.approx(p)


@pytest.mark.parametrize("differences", [[1, 1], [-3], [1] * 49, [1] * 50, [2] * 3000, [1] * 3000 + [0]])
def test_p_is_never_0(differences: list[int]) -> None:
    p = matched_pairs_p(differences)
    assert p is not None and 0 < p <= 1
    assert matched_pairs_p([-each for each in differences]) == p
    if len(differences) <= EXACT_BELOW:
        assert p == 0.5 ** (len(differences) - 1)


def test_equal_errors_are_no_difference_and_no_segment_is_no_test() -> None:
    assert matched_pairs_p([0, 0]) == matched_pairs_p([0] * 60) == matched_pairs_p([2, -2]) == 1.0
    assert matched_pairs_p([]) is None
