"""The buffer of the asynchronous mode: who is asked, how old updates are, and what their age does to them."""

import numpy as np
import pytest

from asr_fed.aggregation.buffer import Buffer, aged, damping
from asr_fed.aggregation.update import add_client, empty, mean

NAMES = [f"client {number}" for number in range(6)]


def asked(buffer: Buffer, there: list[str] = NAMES) -> list[str]:
    found = []
    while (client := buffer.ask(NAMES, lambda name: name in there)) is not None:
        found.append(client)
    return found


def test_damping_is_that_of_the_paper() -> None:
    assert [damping(age) for age in (0, 3, 8)] == [1.0, 0.5, 1 / 3]


def test_an_old_update_moves_less_and_weighs_as_much() -> None:
    update = empty(3)
    add_client(update, np.array([1.0, -2.0, 4.0], np.float32), 1.5, {})
    weights = np.zeros(3, np.float32)
    old = aged(update, 3, weights, weights, parameters=3)
    assert old.weight == update.weight and old.totals == update.totals
    assert mean(old).tolist() == [0.5, -1.0, 2.0] and mean(update).tolist() == [1.0, -2.0, 4.0]
    assert aged(update, 0, weights, weights, parameters=3) is update
    assert np.abs(old.sums["delta"].values).max() <= old.sums["delta"].peak


def test_a_variance_goes_towards_that_of_an_old_update_and_never_below_zero() -> None:
    """It was 10 when the client was sent it, and 1 at the client's end; meanwhile it is 2: half way is 1.5."""
    sent, now = np.array([0.5, 10.0], np.float32), np.array([0.7, 2.0], np.float32)
    update = empty(2)
    add_client(update, np.array([0.2, -9.0], np.float32), 1.5, {})
    following = now + mean(aged(update, 3, sent, now, parameters=1))
    assert following == pytest.approx([0.8, 1.5])
    assert now[1] + damping(3) * -9.0 < 0


def test_as_many_are_at_work_as_are_wanted_and_nobody_who_is_in_the_buffer() -> None:
    buffer = Buffer(size=2, at_once=3, seed=7)
    first = asked(buffer)
    assert len(set(first)) == 3 == len(first) and not asked(buffer)
    buffer.add(first[0])
    (fourth,) = asked(buffer)
    assert fourth not in first and not buffer.is_full
    buffer.lose(first[1])
    assert len(asked(buffer)) == 1
    buffer.add(first[2])
    assert buffer.is_full and buffer.step() == {first[0]: 0, first[2]: 0} and not buffer.is_full
    assert len(asked(buffer, there=[first[0]])) == 1, "it may be asked again"
    buffer.add(fourth)
    assert buffer.step() == {fourth: 1}


def test_with_fewer_clients_than_places_all_are_at_work() -> None:
    buffer = Buffer(size=2, at_once=9, seed=7)
    assert sorted(asked(buffer)) == NAMES
    buffer.add(NAMES[0])
    assert not asked(buffer), "all others are at work, and it is in the buffer"


@pytest.mark.parametrize("seed", [1, 2])
def test_who_is_asked_depends_on_the_seed_and_on_how_many_were_asked_before(seed: int) -> None:
    def begin(asked_before: int = 0) -> Buffer:
        return Buffer(size=1, at_once=3, seed=seed, asked=asked_before)

    assert asked(begin()) == asked(begin())
    assert {tuple(asked(begin(count))) for count in range(9)} != {tuple(asked(begin()))}
