"""Shrinking a client's WER towards the cohort's: the formula, and what it does to the weights of simulated cohorts."""

import numpy as np
import pytest

from asr_fed.aggregation.prior import Prior, prior_of, squared_errors
from asr_fed.aggregation.weighting import Measured, WerSoftmax

RAW, SHRUNK = WerSoftmax(temperature=0.3), WerSoftmax(temperature=0.3, shrink=True)


def totals(errors: np.ndarray, words: np.ndarray) -> dict[str, int]:
    """Sums over clients, as an update has them."""
    squares = sum(squared_errors(e, n) for e, n in zip(errors.tolist(), words.tolist(), strict=True))
    return {
        "clients": len(words),
        "measured": int((words > 0).sum()),
        "word_errors": int(errors.sum()),
        "words": int(words.sum()),
        "squared_errors": squares,
    }


def effective(weighting: WerSoftmax, errors: np.ndarray, words: np.ndarray, prior: Prior) -> float:
    """Effective number of clients, as a share of all."""
    weights = np.array(
        [weighting(Measured(5, e / n, 2.0, words=int(n), prior=prior)) for e, n in zip(errors, words, strict=True)]
    )
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def two_rounds(wers: np.ndarray, words: np.ndarray, seed: int) -> tuple[np.ndarray, Prior]:
    """Errors that the clients make in a round, and the prior that the round before gave."""
    rng = np.random.default_rng(seed)
    return rng.binomial(words, wers), prior_of(totals(rng.binomial(words, wers), words))


def test_it_is_the_mean_of_the_gamma_poisson_posterior() -> None:
    prior, errors, words = Prior(0.2, 0.01), 7, 12
    shape, rate = 0.2**2 / 0.01, 0.2 / 0.01  # a gamma distribution of that mean and variance
    assert prior.shrink(errors / words, words) == pytest.approx((shape + errors) / (rate + words), rel=1e-12)


def test_the_moments_are_those_of_the_clients() -> None:
    rng = np.random.default_rng(2)
    wers = rng.gamma(shape=4.0, scale=0.05, size=20_000)  # mean 0.2, variance 0.01
    words = np.full(len(wers), 8)
    prior = prior_of(totals(rng.poisson(words * wers), words))
    assert prior.wer == pytest.approx(0.2, rel=0.02) and prior.variance == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_equal_clients_count_equally_however_little_they_say(seed: int) -> None:
    """200 clients of six words each, all truly at 18 %: counting alone would leave three quarters of them."""
    words = np.full(200, 6)
    errors, prior = two_rounds(np.full(200, 0.18), words, seed)
    assert effective(RAW, errors, words, prior) < 0.85
    assert effective(SHRUNK, errors, words, prior) > 0.97


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("spoken", "further"), [(12, 0.15), (60, 0.03), (600, 0.005)])
def test_different_clients_keep_their_difference(seed: int, spoken: int, further: float) -> None:
    """Half of them at 10 %, half at 70 %: the more they say, the closer to what their true WERs would give."""
    wers, words = np.repeat([0.1, 0.7], 100), np.full(200, spoken)
    errors, prior = two_rounds(wers, words, seed)
    truth = np.exp((1 - wers) / 0.3)
    expected = truth.sum() ** 2 / (truth**2).sum() / len(truth)
    assert expected == pytest.approx(0.633, abs=0.001)
    assert effective(SHRUNK, errors, words, prior) == pytest.approx(expected, abs=further)


def test_it_keeps_the_order_of_clients_with_equally_much_speech_and_trusts_those_with_more() -> None:
    prior = Prior(0.2, 0.02)
    wers = [prior.shrink(wer, 10) for wer in (0.0, 0.1, 0.5, 1.4)]
    assert wers == sorted(wers) and wers[0] > 0 and wers[-1] < 1.4
    assert prior.shrink(0.5, 5) < prior.shrink(0.5, 50) < prior.shrink(0.5, 5000) < 0.5


@pytest.mark.parametrize("prior", [Prior(), prior_of({"word_errors": 0, "words": 0, "measured": 0})])
def test_where_nothing_is_known_the_wer_is_the_clients_own(prior: Prior) -> None:
    assert prior.shrink(0.4, 6) == 0.4


def test_a_client_without_words_is_like_the_others() -> None:
    assert Prior(0.2, 0.02).shrink(0.0, 0) == pytest.approx(0.2)
    assert squared_errors(0, 0) == 0


def test_clients_without_words_do_not_change_what_the_others_say() -> None:
    """Such as silos without transcripts: each would take one more m off the variance."""
    errors, words = np.array([1, 9, 2, 8]), np.array([20, 20, 20, 20])
    silent = np.zeros(6, int)
    alone = prior_of(totals(errors, words))
    assert alone.variance > 0
    assert prior_of(totals(np.concatenate([errors, silent]), np.concatenate([words, silent]))) == alone


def test_a_single_client_says_nothing_of_differences() -> None:
    assert prior_of(totals(np.array([3]), np.array([10]))) == Prior(0.3)
