"""An update is something you can add: (sum of a_k * delta_k, sum of a_k) with mergeable metrics.

All sums are whole numbers of 2**-FRACTION_BITS, so addition is exact: the result does not depend on the order of
the clients, nor on which worker or node added them up first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
LIMIT = 1 << 62  # on any sum: an int64 with a bit to spare
# Entries handled at a time, so that the float64 intermediates stay in the processor's cache.
CHUNK = 1 << 15
# x + ROUNDER rounds |x| < 2**51 to a whole number, half to even, and leaves it in the last bits of the float64. That is
# twice as fast as rint and a conversion.
ROUNDER = 1.5 * 2.0**52
ROUNDER_BITS = int(np.float64(ROUNDER).view(np.int64))
# A smaller weight would leave fewer than 16 bits of a delta of 1, and of most deltas nothing.
LEAST_WEIGHT = 2.0**-16


class UpdateRefused(ValueError):
    """A client's update cannot be added: the message says why. The update it was meant for is unchanged."""


@dataclass
class Update:
    """Sums over clients.

    sums: int64 [state], sum of a_k * delta_k in units of 2**-32.
    weight: sum of a_k in units of 2**-32.
    peak: an upper bound on any |entry| of `sums`.
    totals: further sums (counts, or numbers in units of 2**-32 made by `fixed`), of any size.
    """

    sums: np.ndarray
    weight: int = 0
    peak: int = 0
    totals: dict[str, int] = field(default_factory=dict)


def empty(length: int) -> Update:
    return Update(np.zeros(length, dtype=np.int64))


def fixed(value: float) -> int:
    """A number in units of 2**-32."""
    return round(value * ONE)


def add_client(update: Update, delta: np.ndarray, weight: float, totals: dict[str, int]) -> None:
    """Add one client's `delta` (float32 [state]) with weight a_k, in place; `clients` and `weight_squared` are counted.

    Raises UpdateRefused, before anything is added, where the delta or the weight is not finite, the weight not
    positive, or the sum would leave its range.
    """
    if delta.shape != update.sums.shape:
        raise UpdateRefused(f"a delta of shape {delta.shape} for a state of shape {update.sums.shape}")
    if not LEAST_WEIGHT <= weight < float("inf"):  # nor is NaN
        raise UpdateRefused(f"a weight of {weight}, which is not a number of at least {LEAST_WEIGHT:g}")
    if weight * ONE >= LIMIT:
        raise UpdateRefused(f"a weight of {weight}, too large to be summed exactly")
    largest = float(max(delta.max(initial=0.0), -delta.min(initial=0.0)))  # NaN and infinity survive
    if not np.isfinite(largest):
        raise UpdateRefused("a delta that is not finite")
    units = fixed(weight)
    peak = int(np.ceil(largest * units)) + 1
    _check_range(update.peak + peak, update.weight + units)
    buffer = np.empty(min(CHUNK, len(delta)))
    for start in range(0, len(delta), CHUNK):
        chunk = delta[start : start + CHUNK]
        scaled = buffer[: len(chunk)]
        scaled[:] = chunk
        scaled *= units
        if peak < 1 << 51:
            scaled += ROUNDER
            whole = scaled.view(np.int64)
            whole -= ROUNDER_BITS
        else:
            whole = np.rint(scaled).astype(np.int64)
        update.sums[start : start + CHUNK] += whole
    update.weight += units
    update.peak += peak
    _add_totals(update.totals, {"clients": 1, "weight_squared": fixed(weight**2), **totals})


def merge(updates: Iterable[Update]) -> Update:
    """The sum of updates; the first one is extended in place, unless it only views a message's bytes.

    Raises UpdateRefused where lengths differ or a sum would leave its range; ValueError where there are none.
    """
    merged: Update | None = None
    for update in updates:
        if merged is None:
            merged = update
            continue
        if update.sums.shape != merged.sums.shape:
            raise UpdateRefused(f"updates of {len(update.sums)} and {len(merged.sums)} numbers")
        _check_range(merged.peak + update.peak, merged.weight + update.weight)
        merged.sums = np.add(merged.sums, update.sums, out=merged.sums if merged.sums.flags.writeable else None)
        merged.weight += update.weight
        merged.peak += update.peak
        _add_totals(merged.totals, update.totals)
    if merged is None:
        raise ValueError("no updates to merge")
    return merged


def mean_delta(update: Update) -> np.ndarray:
    """sum(a_k * delta_k) / sum(a_k), float32 [state]."""
    mean = np.empty(len(update.sums), np.float32)
    return np.divide(update.sums, update.weight, out=mean, dtype=np.float64, casting="same_kind")


def _add_totals(into: dict[str, int], totals: dict[str, int]) -> None:
    for name, value in totals.items():
        into[name] = into.get(name, 0) + value


def _check_range(peak: int, weight: int) -> None:
    if peak >= LIMIT or weight >= LIMIT:
        raise UpdateRefused("weights or deltas too large to be summed exactly")
