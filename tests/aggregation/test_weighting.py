"""The weight of a client, against the formulas worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.aggregation.weighting import LossSoftmax, NumExamples, Uniform, WerSoftmax
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.training.local import ClientResult


def trained(**changes: Any) -> ClientResult:
    content = {
        "delta": np.zeros(1, dtype=np.float32),
        "num_examples": 9,
        "loss": 2.0,
        "words": ErrorCounts(substitutions=2, deletions=1, insertions=1, units=16),  # WER 0.25
        "audio_seconds": 1.0,
        "train_seconds": 1.0,
        "skipped_steps": 0,
    }
    return ClientResult(**(content | changes))


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Uniform(), 1.0),
        (NumExamples(), 9.0),
        (LossSoftmax(), 0.1353352832366127),  # exp(-2)
        (LossSoftmax(temperature=4.0), 0.6065306597126334),  # exp(-1/2)
        (LossSoftmax(temperature=4.0, num_examples_power=0.5), 1.8195919791379003),
        (WerSoftmax(), 2.117000016612675),  # exp(3/4)
        (WerSoftmax(temperature=0.25), 20.085536923187668),  # exp(3)
        (WerSoftmax(temperature=0.25, num_examples_power=1.0), 180.769832308689),
    ],
)
def test_formulas(weighting: Any, expected: float) -> None:
    assert weighting(trained()) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 300), st.integers(1, 100))
def test_a_wer_weight_lies_between_1_and_e(errors: int, words: int) -> None:
    weight = WerSoftmax()(trained(words=ErrorCounts(insertions=errors, units=words)))
    assert 1.0 <= weight <= math.e
    if errors >= words:
        assert weight == 1.0


def test_fewer_errors_weigh_more_and_shares_are_a_softmax() -> None:
    wers = [0.0, 0.3, 0.9]
    raw = [WerSoftmax()(trained(words=ErrorCounts(deletions=round(10 * wer), units=10))) for wer in wers]
    shares = np.array(raw) / sum(raw)
    softmax = np.exp(1 - np.array(wers)) / np.exp(1 - np.array(wers)).sum()
    np.testing.assert_allclose(shares, softmax, rtol=1e-12)
    assert raw == sorted(raw, reverse=True)


def test_a_client_whose_dev_part_has_no_words_still_has_a_weight() -> None:
    assert 1.0 <= WerSoftmax()(trained(words=ErrorCounts())) <= math.e
