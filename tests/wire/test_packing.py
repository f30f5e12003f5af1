"""Sums in as few bytes as they need: without loss, and nothing forged is read."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_fed.wire.messages import Refused
from asr_fed.wire.packing import BLOCK, CHUNK, HEAD, WHOLE, pack_whole, unpack_whole

LOW, HIGH = -(2**63), 2**63 - 1
ENTRIES = st.lists(st.integers(LOW, HIGH) | st.integers(-300, 300), max_size=30)


@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(0, 62), st.integers(0, 3 * BLOCK))
def test_nothing_is_lost(entries: list[int], shift: int, zeros: int) -> None:
    values = np.concatenate([np.array(entries, np.int64) >> shift << shift, np.zeros(zeros, np.int64)])
    np.testing.assert_array_equal(unpack_whole(pack_whole(values), len(values)), values)


@pytest.mark.parametrize("beyond", [-1, 0, 1, BLOCK + 1])
def test_a_sum_of_several_chunks_of_blocks(beyond: int) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(-(2**40), 2**40, 2 * CHUNK * BLOCK + beyond) >> rng.integers(0, 40)
    values[: CHUNK * BLOCK : 3] = 0
    values[-BLOCK:] <<= 12
    np.testing.assert_array_equal(unpack_whole(pack_whole(values), len(values)), values)


@pytest.mark.parametrize("most", [2**7, 2**15, 2**31, 2**47, 2**63])
def test_an_entry_takes_as_many_bytes_as_the_largest_of_its_block(most: int) -> None:
    for values in (np.array([-most, most - 1] * BLOCK, np.int64), np.full(2 * BLOCK, -most)):
        packed = pack_whole(values)
        np.testing.assert_array_equal(unpack_whole(packed, len(values)), values)
    width = most.bit_length() // 8
    fitting, beyond = np.array([-most, most - 1] * BLOCK, np.int64), np.array([-most - 1, 1] * BLOCK, object)
    assert len(pack_whole(fitting)) == 2 * (HEAD.itemsize + BLOCK * width)
    if most < 2**63:
        assert len(pack_whole(beyond.astype(np.int64))) == 2 * (HEAD.itemsize + BLOCK * (width + 1))


def test_a_coarse_grid_and_zeros_cost_nothing() -> None:
    rng = np.random.default_rng(3)
    coarse = rng.integers(-127, 128, 4 * BLOCK) << 40
    assert len(pack_whole(coarse)) == 4 * (HEAD.itemsize + BLOCK)
    few = np.zeros(4 * BLOCK, np.int64)
    few[rng.choice(len(few), 40, replace=False)] = 100 << 20
    assert len(pack_whole(few)) <= 4 * HEAD.itemsize + 40 * 2
    assert len(pack_whole(np.zeros(4 * BLOCK, np.int64))) == 4 * HEAD.itemsize


def forged(**head: int) -> np.ndarray:
    """One block whose head lies."""
    packed = pack_whole(np.arange(1, BLOCK + 1)).copy()
    heads = packed[: HEAD.itemsize].view(HEAD)
    for name, value in head.items():
        heads[name] = value
    return packed


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (lambda: np.zeros(3, np.uint8), "3 bytes for a sum of 256 numbers"),
        (lambda: forged()[:-1], "bytes for a sum"),
        (lambda: np.append(forged(), np.uint8(0)), "bytes for a sum"),
        (lambda: forged(width=9), "a head that cannot be"),
        (lambda: forged(width=4), "bytes for a sum"),
        (lambda: forged(shift=64), "a head that cannot be"),
        (lambda: forged(shift=62), "beyond 64 bits"),
        (lambda: forged(listed=BLOCK + 1), "a head that cannot be"),
        (lambda: forged(listed=WHOLE - 1), "a head that cannot be"),
    ],
)
def test_what_is_no_sum_is_refused(packed: Callable[[], np.ndarray], says: str) -> None:
    with pytest.raises(Refused, match=says):
        unpack_whole(packed(), BLOCK)
    assert unpack_whole(forged(), BLOCK)[0] == 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 2 * BLOCK))
def test_any_bytes_are_a_sum_or_refused(data: bytes, length: int) -> None:
    with suppress(Refused):
        assert unpack_whole(np.frombuffer(data, np.uint8), length).shape == (length,)
