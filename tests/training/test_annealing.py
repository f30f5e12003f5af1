"""NewBob and the planned fall, round by round, by hand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.nnet.schedulers import NewBobScheduler

from asr_fed.config.schema import Decay, NewBobConfig
from asr_fed.training.annealing import NewBob, anneal, planned_fall

ANY = 1000.0  # a ceiling that no WER reaches


def rates(wers: list[float], config: NewBobConfig, lr: float = 1.0) -> list[float]:
    state, seen = NewBob(lr), []
    for wer in wers:
        state = anneal(state, wer, config)
        seen.append(state.lr)
    return seen


def test_the_rate_falls_where_the_relative_gain_is_too_small() -> None:
    config = NewBobConfig(factor=0.8, threshold=0.01, patience=0, ceiling=ANY)
    # gains: -, 10 %, 1.1 %, 0.56 %, worse, 50 %
    assert rates([100, 90, 89, 88.5, 95, 47.5], config) == [1.0, 1.0, 1.0, 0.8, 0.8 * 0.8, 0.8 * 0.8]


def test_patience_forgives_so_many_stalls_in_a_row_or_not() -> None:
    config = NewBobConfig(factor=0.5, threshold=0.1, patience=2)
    wers = [50.0, 50, 50, 40, 40, 40, 40, 40, 40, 40]
    assert rates(wers, config) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_the_gain_is_measured_from_the_last_wer_not_from_the_best() -> None:
    config = NewBobConfig(factor=0.5, threshold=0.05, patience=0)
    assert rates([50, 80, 60, 59], config) == [1, 0.5, 0.5, 0.25]


def test_it_waits_until_something_is_recognised() -> None:
    """A WER at its ceiling says nothing about the rate; once below, back at the ceiling means that it is too high."""
    config = NewBobConfig(factor=0.5, threshold=0.01, patience=0)
    assert rates([100, 100, 103, 99.8, 99.8, 90], config) == [1.0] * 6
    assert rates([100, 100, 89, 70, 100, 100], config) == [1, 1, 1, 1, 0.5, 0.25]


def test_a_wer_of_zero_cannot_be_improved_on() -> None:
    assert rates([0.0, 0.0], NewBobConfig(factor=0.5)) == [1.0, 0.5]


wer_lists = st.lists(st.floats(0, 300), max_size=30)


@given(wer_lists, st.floats(0.1, 1.0), st.floats(0.001, 0.2), st.integers(0, 3))
def test_the_rule_is_that_of_speechbrain(wers: list[float], factor: float, threshold: float, patience: int) -> None:
    theirs = NewBobScheduler(1.0, annealing_factor=factor, improvement_threshold=threshold, patient=patience)
    expected = [theirs(wer)[1] for wer in wers]
    assert rates(wers, NewBobConfig(factor=factor, threshold=threshold, patience=patience, ceiling=ANY)) == expected


@given(wer_lists, st.floats(0.1, 1.0), st.integers(0, 3))
def test_the_rate_never_rises_and_falls_by_the_factor_only(wers: list[float], factor: float, patience: int) -> None:
    seen = [1.0, *rates(wers, NewBobConfig(factor=factor, patience=patience, ceiling=ANY))]
    assert all(after in (before, before * factor) for before, after in pairwise(seen))


def test_a_planned_fall_is_a_line_or_half_a_cosine_from_its_beginning_to_the_end() -> None:
    done = [0, 0.2, 0.4, 0.55, 0.7, 0.85, 1]
    assert [planned_fall(each, 0.4, Decay.linear) for each in done] == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0])
    half = 2**0.5 / 4
    cosine = [planned_fall(each, 0.4, Decay.cosine) for each in done]
    assert cosine == pytest.approx([1, 1, 1, 0.5 + half, 0.5, 0.5 - half, 0])


@given(st.floats(0, 1), st.sampled_from(Decay))
def test_a_fall_that_begins_at_the_end_never_comes(done: float, decay: Decay) -> None:
    assert planned_fall(done, 1.0, decay) == 1.0
