"""How an encoder's states vary, against numpy's covariance and plain means."""

import numpy as np
import pytest

from asr_fed.evaluation.state_variance import StateVariance


def of(*utterances: np.ndarray) -> StateVariance:
    found = StateVariance()
    for utterance in utterances:
        found.add(utterance)
    return found


def test_what_lies_between_utterances_is_what_their_means_leave_over() -> None:
    rng = np.random.default_rng(1)
    utterances = [rng.normal(rng.normal(0, 2, 5), 1, (count, 5)) for count in (3, 40, 17)]
    states, found = np.concatenate(utterances), of(*utterances)
    within = sum(((each - each.mean(0)) ** 2).sum() for each in utterances)
    whole = ((states - states.mean(0)) ** 2).sum()
    assert found.between == pytest.approx(100 * (1 - within / whole)) and 20 < found.between < 99
    shares = np.linalg.eigvalsh(np.cov(states.T))
    shares /= shares.sum()
    assert found.effective_rank == pytest.approx(1 / (shares**2).sum())


def test_the_ends() -> None:
    """A state that stands still in each utterance; one direction alone; no variance at all."""
    still = of(np.ones((4, 3)), 2 * np.ones((4, 3)))
    assert still.between == pytest.approx(100) and still.effective_rank == pytest.approx(1)
    alike = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    moving = of(alike, alike)
    assert moving.between == pytest.approx(0) and moving.effective_rank == pytest.approx(2)
    dead = of(np.ones((4, 3)), np.ones((2, 3)))
    assert dead.between == 0 and dead.effective_rank == 0
    diverged = of(np.full((2, 3), np.nan))
    assert np.isnan([diverged.between, diverged.effective_rank]).all()
