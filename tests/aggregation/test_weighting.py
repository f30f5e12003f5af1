"""The weight of a client, against the formulas worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.aggregation.update import LEAST_WEIGHT
from asr_fed.aggregation.weighting import LossSoftmax, Measured, NumExamples, Uniform, WerSoftmax
from asr_fed.evaluation.wer import ErrorCounts


def measured(**changes: Any) -> Measured:
    return Measured(**({"num_examples": 9, "wer": 0.25, "loss": 2.0} | changes))


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
    assert weighting(measured()) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 300), st.integers(1, 100))
def test_a_wer_weight_lies_between_1_and_e(errors: int, words: int) -> None:
    weight = WerSoftmax()(measured(wer=errors / words))
    assert 1.0 <= weight <= math.e
    if errors >= words:
        assert weight == 1.0


def test_fewer_errors_weigh_more_and_shares_are_a_softmax() -> None:
    wers = [0.0, 0.3, 0.9]
    raw = [WerSoftmax()(measured(wer=wer)) for wer in wers]
    shares = np.array(raw) / sum(raw)
    softmax = np.exp(1 - np.array(wers)) / np.exp(1 - np.array(wers)).sum()
    np.testing.assert_allclose(shares, softmax, rtol=1e-12)
    assert raw == sorted(raw, reverse=True)


def test_a_client_whose_dev_part_has_no_words_still_has_a_weight() -> None:
    assert 1.0 <= WerSoftmax()(measured(wer=ErrorCounts().rate)) <= math.e


@pytest.mark.parametrize("reference", [0.0, 40.0, 900.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_loss_weights_are_a_softmax_however_high_the_losses_are(reference: float, temperature: float) -> None:
    """A cold start has losses far above 11, where exp(-loss) itself adds nothing to a sum of 32 binary places."""
    losses = reference + np.array([-0.5, 0.0, 0.25, 1.0])
    weighting = LossSoftmax(temperature)
    raw = np.array([weighting(measured(loss=loss, reference_loss=reference)) for loss in losses])
    exact = np.exp(-(losses - reference) / temperature)
    np.testing.assert_allclose(raw / raw.sum(), exact / exact.sum(), rtol=1e-9)
    least, most = weighting.bounds(9)
    assert ((least <= raw) & (raw <= most)).all()


@pytest.mark.parametrize("loss", [0.0, 12.0, 1e6])
def test_no_loss_weighs_nothing_or_drowns_all_others(loss: float) -> None:
    least, most = LossSoftmax().bounds(1)
    weight = LossSoftmax()(measured(num_examples=1, loss=loss, reference_loss=0.0 if loss else 1e6))
    assert LEAST_WEIGHT <= least <= weight <= most < 1e6
