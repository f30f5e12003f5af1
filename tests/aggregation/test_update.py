"""An update is something you can add: exactly, in any order and grouping, or not at all."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asr_fed.aggregation.update import (
    CHUNK,
    DELTA,
    ONE,
    Update,
    UpdateRefused,
    add_client,
    empty,
    fixed,
    mean,
    merge,
)

LENGTH = 5
deltas = arrays.arrays(np.float32, LENGTH, elements=st.floats(-100, 100, width=32))
weights = st.floats(1e-3, 1e4)
clients = st.lists(st.tuples(deltas, weights), min_size=1, max_size=12)


def total(members: list[tuple[np.ndarray, float]]) -> Update:
    update = empty(LENGTH)
    for number, (delta, weight) in enumerate(members):
        add_client(update, delta, weight, {"examples": number})
    return update


def content(update: Update) -> tuple:
    return {name: (each.values.tobytes(), each.weight, each.peak) for name, each in update.sums.items()}, update.totals


@given(clients, st.randoms(use_true_random=False))
def test_any_order_and_grouping_gives_the_same_bits(members: list, shuffle: random.Random) -> None:
    expected = content(total(members))
    singles = [empty(LENGTH) for _ in members]
    for number, (single, (delta, weight)) in enumerate(zip(singles, members, strict=True)):
        add_client(single, delta, weight, {"examples": number})
    shuffle.shuffle(singles)
    while len(singles) > 1:  # merge any two neighbours, as a tree of nodes might
        at = shuffle.randrange(len(singles) - 1)
        singles[at : at + 2] = [merge(singles[at : at + 2])]
    assert content(singles[0]) == expected


@given(deltas, st.floats(2.0**-16, 2.0**29 / 100))
def test_sums_are_rounded_half_to_even_whatever_their_size(delta: np.ndarray, weight: float) -> None:
    update = empty(LENGTH)
    add_client(update, delta, weight, {})
    np.testing.assert_array_equal(
        update.sums[DELTA].values, np.rint(delta.astype(np.float64) * fixed(weight)).astype(np.int64)
    )


@given(clients)
def test_the_mean_is_that_of_float64(members: list) -> None:
    exact_weights = np.array([weight for _, weight in members])
    matrix = np.array([delta for delta, _ in members], dtype=np.float64)
    expected = exact_weights @ matrix / exact_weights.sum()
    found = mean(total(members))
    assert found.dtype == np.float32
    # each a_k is rounded to 2**-32, and so is each sum; the mean once more to float32
    bound = 2.0**-32 * len(members) * 200 / exact_weights.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=bound + 1e-9)


def test_a_state_longer_than_a_chunk_is_summed_to_its_end() -> None:
    rng = np.random.default_rng(3)
    update = empty(2 * CHUNK + 7)
    matrix = rng.standard_normal((3, len(update.sums[DELTA].values))).astype(np.float32)
    for delta, weight in zip(matrix, (1.0, 2.0, 0.5), strict=True):
        add_client(update, delta, weight, {})
    np.testing.assert_allclose(
        mean(update), np.array([1.0, 2.0, 0.5]) @ matrix.astype(np.float64) / 3.5, rtol=1e-6, atol=1e-8
    )


def test_equal_deltas_come_back_exactly() -> None:
    delta = np.array([1.5, -0.1, 2.0**-20, 0.0, 1e3], dtype=np.float32)
    update = total([(delta, 1.0)] * 7)
    np.testing.assert_array_equal(mean(update), delta)


def with_entry(value: float) -> np.ndarray:
    return np.array([1.0, value, 0.0, -1.0, 2.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("delta", "weight", "reason"),
    [
        (with_entry(np.nan), 1.0, "not finite"),
        (with_entry(np.inf), 1.0, "not finite"),
        (with_entry(-np.inf), 1.0, "not finite"),
        (with_entry(1), 0.0, "weight of 0.0"),
        (with_entry(1), -1.0, "weight of -1.0"),
        (with_entry(1), 1e-12, "weight of 1e-12"),
        (with_entry(1), np.nan, "weight of nan"),
        (with_entry(1), np.inf, "weight of inf"),
        (with_entry(1), 2.0**40, "too large"),
        (with_entry(1), 1e300, "too large"),
        (with_entry(1), 1e290, "too large"),
        (with_entry(3e38), 1.0, "too large"),
        (with_entry(2.0**20), 2.0**12, "too large"),
        (with_entry(1)[:4], 1.0, "shape"),
        (with_entry(1)[None], 1.0, "shape"),
    ],
)
def test_what_cannot_be_added_is_refused_and_changes_nothing(delta: np.ndarray, weight: float, reason: str) -> None:
    update = total([(with_entry(0.25), 1.5)])
    before = content(update)
    with pytest.raises(UpdateRefused, match=reason):
        add_client(update, delta, weight, {})
    assert content(update) == before


@settings(max_examples=40)
@given(st.floats(2.0**10, 2.0**29, width=32), st.floats(1.0, 2.0**20))
def test_sums_never_wrap_around(value: float, weight: float) -> None:
    update, added = empty(1), 0
    delta = np.array([value], dtype=np.float32)
    try:
        while added < 50:
            add_client(update, delta, weight, {})
            added += 1
    except UpdateRefused:
        assert (added + 1) * value * weight > 2.0**29  # refused near the range's end, not long before
    assert update.totals.get("clients", 0) == added
    assert abs(int(update.sums[DELTA].values[0])) <= update.sums[DELTA].peak < 1 << 62
    if added:
        assert mean(update)[0] == pytest.approx(value, rel=1e-6)


def test_merging_is_refused_beyond_the_range_and_for_other_lengths() -> None:
    def large() -> Update:
        return total([(with_entry(2.0**29 - 1), 1.0)])

    first, second = large(), large()
    before = content(first), content(second)
    with pytest.raises(UpdateRefused, match="too large"):
        merge([first, second])
    assert (content(first), content(second)) == before
    with pytest.raises(UpdateRefused, match="numbers"):
        merge([empty(3), empty(4)])
    with pytest.raises(ValueError, match="no updates"):
        merge([])


def test_totals_add_up_even_where_only_one_side_knows_them() -> None:
    first, second = empty(1), empty(1)
    one = np.ones(1, dtype=np.float32)
    add_client(first, one, 1.0, {"a": 5})
    add_client(second, one, 0.5, {"b": -2})
    totals = {"clients": 2, "weight_squared": fixed(1.25), "a": 5, "b": -2}
    assert merge([first, second]).totals == totals


def test_products_are_rounded_to_the_nearest_unit() -> None:
    update = empty(4)
    add_client(update, np.array([0.75, -0.75, 0.4, -1.4], dtype=np.float32) / ONE, 1.0, {})
    assert update.sums[DELTA].values.tolist() == [1, -1, 0, -1]


def test_fixed_point_units() -> None:
    assert fixed(1.0) == ONE == 1 << 32
    assert fixed(-0.5) == -(1 << 31)
    assert fixed(2.0**-33) == 0


def two(delta: np.ndarray, control: np.ndarray, weight: float) -> Update:
    update = empty(LENGTH, {"control": 3})
    add_client(update, delta, weight, {}, {"control": control})
    return update


def test_further_vectors_count_once_per_client_whatever_its_weight() -> None:
    first, second = np.float32([1, 2, 3]), np.float32([3, 2, 5])
    update = merge([two(with_entry(1), first, 2.0), two(with_entry(4), second, 4.0)])
    np.testing.assert_array_equal(mean(update, "control"), [2, 2, 4])
    np.testing.assert_array_equal(mean(update), with_entry(3))
    assert update.sums["control"].weight == 2 * ONE and update.weight == 6 * ONE


@pytest.mark.parametrize("control", [np.float32([1, np.nan, 0]), np.float32([1, 2]), np.float32([1, 3e38, 0])])
def test_nothing_is_added_where_one_of_the_vectors_is_refused(control: np.ndarray) -> None:
    update = two(with_entry(1), np.zeros(3, np.float32), 1.0)
    before = content(update)
    with pytest.raises(UpdateRefused, match=r"control|too large"):
        add_client(update, with_entry(1), 1.0, {}, {"control": control})
    with pytest.raises(UpdateRefused, match="vectors"):
        add_client(update, with_entry(1), 1.0, {})
    with pytest.raises(UpdateRefused, match="updates of"):
        merge([update, empty(LENGTH)])
    assert content(update) == before
