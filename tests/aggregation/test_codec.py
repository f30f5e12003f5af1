"""A coarser delta: on its grid, right on average, and what was left out is known."""

import numpy as np
import pytest
import torch

from asr_fed.aggregation.codec import (
    download_bytes,
    encode,
    from_bfloat16,
    left_over,
    to_bfloat16,
    upload_bytes,
)
from asr_fed.aggregation.update import UpdateRefused, add_client, empty, fixed, mean, merge
from asr_fed.wire.packing import BLOCK, HEAD, pack_whole

SIZES = (1000, 24, 3000, 8)
PARAMETERS = 4024
STATE = sum(SIZES)


def delta(seed: int = 1) -> np.ndarray:
    """Four tensors, each ten times as large as the one before; the last is a buffer."""
    rng = np.random.default_rng(seed)
    scales = zip((1e-4, 1e-3, 1e-2, 1.0), SIZES, strict=True)
    return np.concatenate([scale * rng.standard_normal(size) for scale, size in scales]).astype(np.float32)


def coded(vector: np.ndarray, weight: float = 1.5, seed: int = 7, **settings: object) -> np.ndarray:
    given = {"bits": 8, "keep": 1.0} | settings
    return encode(vector, weight, SIZES, PARAMETERS, chance=np.random.default_rng(seed), **given)  # type: ignore[arg-type]


def tensors(vector: np.ndarray) -> list[np.ndarray]:
    return np.split(vector, np.cumsum(SIZES)[:-1])


@pytest.mark.parametrize("bits", [2, 8, 12, 16])
def test_each_tensor_has_a_grid_of_its_own(bits: int) -> None:
    exact = delta().astype(np.float64) * fixed(1.5)
    *parameters, buffer = zip(tensors(coded(delta(), bits=bits)), tensors(exact), strict=True)
    assert np.array_equal(buffer[0], np.rint(buffer[1])), "a variance is not rounded: it could come below 0"
    for rounded, whole in parameters:
        step = int(np.gcd.reduce(rounded))
        assert step & (step - 1) == 0  # a power of two
        assert np.abs(rounded // step).max() < 1 << (bits - 1)
        assert np.abs(rounded - whole).max() <= 2.001 * step  # clipped at most a step further than rounded
        assert np.abs(whole).max() > step * ((1 << (bits - 2)) - 1) / 2  # and no coarser than it has to be


def test_rounding_is_right_on_average_and_seeded() -> None:
    vector = np.full(STATE, 0.3, np.float32)
    vector[::100] = 1.0
    first, again, other = coded(vector), coded(vector), coded(vector, seed=8)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    tensor, low = slice(0, SIZES[0]), vector[: SIZES[0]] < 1
    entries = np.concatenate([coded(vector, seed=seed)[tensor][low] for seed in range(20)])
    step = int(np.gcd.reduce(first[tensor]))
    assert np.ptp(entries) == step
    assert entries.mean() == pytest.approx(0.3 * fixed(1.5), abs=4 * step / np.sqrt(len(entries)))


def test_the_largest_entries_are_kept_and_buffers_whole() -> None:
    vector = delta()
    sent = coded(vector, bits=None, keep=0.05)
    kept = np.flatnonzero(sent[:PARAMETERS])
    assert len(kept) == round(0.05 * PARAMETERS)
    sizes = np.abs(vector[:PARAMETERS])
    assert sizes[kept].min() >= np.delete(sizes, kept).max()
    exact = np.rint(vector.astype(np.float64) * fixed(1.5)).astype(np.int64)
    assert np.array_equal(sent[kept], exact[kept]) and np.array_equal(sent[PARAMETERS:], exact[PARAMETERS:])


def test_what_is_fed_back_arrives_in_the_end() -> None:
    """The sum of what was sent and what is left is the sum of the deltas, whatever was left out on the way."""
    unsent, sent = np.zeros(STATE, np.float32), np.zeros(STATE)
    for number in range(30):
        wanted = delta(seed=2) + unsent
        step = coded(wanted, seed=number, bits=4, keep=0.1)
        unsent = left_over(wanted, step, 1.5)
        sent += step / fixed(1.5)
    np.testing.assert_allclose(sent + unsent, 30 * delta(seed=2).astype(np.float64), atol=1e-4)
    alone = sum(coded(delta(seed=2), seed=number, bits=4, keep=0.1) / fixed(1.5) for number in range(30))
    error = np.abs(sent / 30 - delta(seed=2))[:PARAMETERS].mean()
    assert error < 0.5 * np.abs(alone / 30 - delta(seed=2))[:PARAMETERS].mean()


def test_sums_of_coarse_deltas_do_not_depend_on_who_added_first() -> None:
    weights = (1.0, 2.5, 0.3)
    updates = []
    for order in ([0, 1, 2], [2, 0, 1]):
        one, other = empty(STATE), empty(STATE)
        for place, client in enumerate(order):
            into = one if place < 2 else other
            add_client(into, coded(delta(client), weights[client], seed=client), weights[client], {})
        updates.append(merge([one, other]))
    first, second = updates
    assert first.sums["delta"].values.tobytes() == second.sums["delta"].values.tobytes()
    assert first.weight == second.weight == fixed(1.0) + fixed(2.5) + fixed(0.3)
    expected = sum(w * delta(k) for k, w in enumerate(weights)) / sum(weights)
    largest = np.max([[np.abs(each).max() for each in tensors(delta(client))] for client in range(3)], axis=0)
    for got, wanted, most in zip(tensors(mean(first)), tensors(expected), largest, strict=True):
        assert np.abs(got - wanted).max() < most / 30


@pytest.mark.parametrize(
    ("settings", "clients", "bytes_of_an_entry"),
    [
        ({"bits": None, "keep": 0.999}, 1, 4.0),
        ({"bits": 8}, 1, 1.0),
        ({"bits": 8}, 4, 2.0),  # some blocks fit in a byte
        ({"bits": 12}, 1, 2.0),
        ({"bits": 16}, 1, 2.0),
        ({"bits": 8, "keep": 0.01}, 1, 0.02),
    ],
)
def test_sums_travel_in_as_few_bytes_as_they_need(settings: dict, clients: int, bytes_of_an_entry: float) -> None:
    """One tensor of like entries; today's sums of whole numbers had 8 bytes each."""
    length = 200 * BLOCK
    update = empty(length)
    for client in range(clients):
        vector = (np.random.default_rng(client).standard_normal(length) * 0.01).astype(np.float32)
        chance = np.random.default_rng(client)
        sent = encode(vector, 1.0, [length], length, chance=chance, **({"keep": 1.0} | settings))
        add_client(update, sent, 1.0, {})
    packed = len(pack_whole(update.sums["delta"].values)) / length
    least = bytes_of_an_entry - (0.3 if clients == 1 else 1.0)
    assert least <= packed - HEAD.itemsize / BLOCK <= bytes_of_an_entry + 0.001
    if clients == 1:
        assert packed == pytest.approx(upload_bytes(length, **({"keep": 1.0} | settings)) / length, abs=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e30])
def test_what_cannot_be_summed_is_refused(bad: float) -> None:
    vector = delta()
    vector[5] = bad
    with pytest.raises(UpdateRefused):
        coded(vector)
    update = empty(STATE)
    with pytest.raises(UpdateRefused, match="too large"):
        add_client(update, np.full(STATE, 1 << 62), 1.0, {})
    assert not update.sums["delta"].values.any() and update.weight == 0


def test_a_bfloat16_is_what_torch_makes_of_it() -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal(4000) * 10.0 ** rng.integers(-30, 30, 4000)).astype(np.float32)
    values[:4] = (0.0, -0.0, 1.00390625, 1.01171875)  # the last two lie in the middle: half to even
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    assert to_bfloat16(values).tobytes() == theirs.view(torch.uint16).numpy().tobytes()
    rounded = from_bfloat16(to_bfloat16(values))
    assert rounded.dtype == np.float32 and rounded.tobytes() == theirs.float().numpy().tobytes()
    assert to_bfloat16(rounded).tobytes() == to_bfloat16(values).tobytes()


def test_half_of_the_bytes_of_parameters_go_down() -> None:
    assert download_bytes(1000, 900, bits=None) == 4000
    assert download_bytes(1000, 900, bits=16) == 900 * 2 + 100 * 4
