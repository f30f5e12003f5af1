"""Coarser uploads and downloads.

Up: a client's a_k * delta_k is rounded before it is added, so that its sum needs fewer bits.

The grid of a tensor is the multiples of a power of two, the finest one with which its largest entry fits in `bits`.
An entry goes up or down by chance, in proportion to its distance, so that the rounded one is right on average (QSGD,
arXiv 1610.02132). Chance is seeded by run, round and client, and grids are whole units of 2**-32: sums stay exact, and
the same in every engine. With `keep` below 1 only the largest entries are sent (arXiv 1712.01887).

What was rounded away may stay with the client's owner, who adds it to the next delta (error feedback, arXiv
1901.09847).

Down: the first 16 bits of a float32, which are a bfloat16, rounded to nearest, half to even.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from asr_fed.aggregation.update import LIMIT, UpdateRefused, fixed

PLACE_BYTES = 1  # of the place of an entry, where few are sent
EXACT_BYTES = 4  # of an entry that is not rounded: up below 1/2, in units of 2**-32; down float32
HEAD_BYTES = 1 / 64  # of a block's head, for each of its entries


def encode(
    delta: np.ndarray,
    weight: float,
    sizes: Sequence[int],
    parameters: int,
    *,
    bits: int | None,
    keep: float,
    chance: np.random.Generator,
) -> np.ndarray:
    """a_k * delta_k on the grids of its tensors: int64 [state], in units of 2**-32.

    Args:
        delta: float32 [state]; weight: a_k.
        sizes: of the tensors in it. Of the first `parameters` entries the share `keep` is sent, the largest; the rest,
            the buffers, is sent whole, and not rounded: a variance could come below 0.
        bits: of an entry with its sign; None leaves all.

    Raises UpdateRefused where the delta is not finite, or too large to be summed exactly.
    """
    largest = float(np.abs(delta).max(initial=0.0)) * weight
    if not np.isfinite(largest):
        raise UpdateRefused("a delta or weight that is not finite")
    if fixed(largest) >= LIMIT:
        raise UpdateRefused("a delta too large to be summed exactly")
    coded = np.empty(len(delta), np.int64)
    least = _least_kept(np.abs(delta[:parameters]), keep)
    for start, end in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        scaled = delta[start:end].astype(np.float64)
        if least > 0 and end <= parameters:
            scaled[np.abs(scaled) < least] = 0
        scaled *= fixed(weight)
        whole = bits is None or start >= parameters
        coded[start:end] = np.rint(scaled) if whole else _on_grid(scaled, (1 << ((bits or 0) - 1)) - 1, chance)
    return coded


def left_over(delta: np.ndarray, coded: np.ndarray, weight: float) -> np.ndarray:
    """The part of a delta that was not sent, float32 [state]."""
    return (delta - coded / fixed(weight)).astype(np.float32)


def upload_bytes(state: int, *, bits: int | None, keep: float) -> float:
    """Bytes of the update of one client, by these settings: what its time on a network is planned by."""
    width = EXACT_BYTES if bits is None else -(-bits // 8)
    return state * (HEAD_BYTES + min(width, keep * (width + PLACE_BYTES)))


def download_bytes(state: int, parameters: int, *, bits: int | None) -> int:
    """Bytes of the weights that a client is sent: of `state` numbers the first `parameters` are no buffers."""
    return EXACT_BYTES * state - (EXACT_BYTES - (bits or 32) // 8) * parameters


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16 from float32, of the same shape; what is too large becomes infinite."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(halves: np.ndarray) -> np.ndarray:
    """float32 from uint16."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _on_grid(scaled: np.ndarray, most: int, chance: np.random.Generator) -> np.ndarray:
    largest = float(np.abs(scaled).max(initial=0.0))
    shift = 0
    while largest > most * 2.0**shift:
        shift += 1
    steps = np.floor(scaled * 2.0**-shift + chance.random(len(scaled)))
    return np.clip(steps, -most, most).astype(np.int64) << shift


def _least_kept(sizes: np.ndarray, keep: float) -> float:
    """The smallest of the share `keep` of the largest entries; 0 where all are kept."""
    kept = round(keep * len(sizes))
    if keep == 1 or kept >= len(sizes):
        return 0.0
    kept = max(1, kept)
    return float(np.partition(sizes, len(sizes) - kept)[len(sizes) - kept])
