"""An update is something you can add: (sum of a_k * delta_k, sum of a_k) with mergeable metrics.

All sums are whole numbers of 2**-FRACTION_BITS, so addition is exact: the result depends neither on the order of the
clients nor on which worker or node added them first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

DELTA = "delta"  # the vector that every algorithm sums: local weights minus global weights
FRACTION_BITS = 32
ONE = 1 << FRACTION_BITS
LIMIT = 1 << 62  # on any sum: one bit less than an int64 holds
# Entries handled at a time, so that the float64 intermediates stay in the processor's cache.
CHUNK = 1 << 15
# x + ROUNDER rounds |x| < 2**51 to a whole number, half to even, and leaves it in the last bits of the float64. That is
# twice as fast as rint and a conversion.
ROUNDER = 1.5 * 2.0**52
ROUNDER_BITS = int(np.float64(ROUNDER).view(np.int64))
# With a smaller weight fewer than 16 bits of a delta of 1 would be left, and nothing of most deltas.
LEAST_WEIGHT = 2.0**-16


class UpdateRefused(ValueError):
    """A client's update cannot be added; the message says why. The sum is unchanged."""


@dataclass
class Sum:
    """A sum over clients of a_k * x_k, where x_k is a vector of client k.

    values: int64 [length], in units of 2**-32.
    weight: the sum of a_k, in units of 2**-32.
    peak: an upper bound on any |entry| of `values`.
    """

    values: np.ndarray
    weight: int = 0
    peak: int = 0


@dataclass
class Update:
    """Sums over clients.

    sums: by the name of the vector. DELTA is weighted with the client's a_k; every other vector counts once per client.
    totals: further sums (counts, or numbers in units of 2**-32 made by `fixed`), of any size.
    """

    sums: dict[str, Sum]
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Sum of a_k, in units of 2**-32."""
        return self.sums[DELTA].weight


def empty(length: int, others: Mapping[str, int] | None = None) -> Update:
    """No client yet: a delta of `length` numbers, and other vectors by name and length."""
    lengths = {DELTA: length, **(others or {})}
    return Update({name: Sum(np.zeros(size, dtype=np.int64)) for name, size in lengths.items()})


def fixed(value: float) -> int:
    """A number in units of 2**-32."""
    return round(value * ONE)


def add_client(
    update: Update,
    delta: np.ndarray,
    weight: float,
    totals: dict[str, int],
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Add one client's `delta` (float32 [state]) with weight a_k, in place; `clients` and `weight_squared` are counted.

    A delta of int64 is a_k * delta_k already, in units of 2**-32, as `codec.encode` makes it. `others` are the client's
    further vectors (float32), each with weight 1.

    Raises UpdateRefused, before anything is added, where a vector or the weight is not finite, the weight not
    positive, the vectors are not those of the update, or a sum would leave its range.
    """
    if not LEAST_WEIGHT <= weight < float("inf"):  # nor is NaN
        raise UpdateRefused(f"a weight of {weight}, which is not a number of at least {LEAST_WEIGHT:g}")
    if weight * ONE >= LIMIT:
        raise UpdateRefused(f"a weight of {weight}, too large to be summed exactly")
    vectors = {DELTA: delta, **(others or {})}
    if vectors.keys() != update.sums.keys():
        raise UpdateRefused(f"vectors {sorted(vectors)} for sums of {sorted(update.sums)}")
    units = {name: fixed(weight) if name == DELTA else ONE for name in vectors}
    peaks = {name: _peak(update.sums[name], name, vector, units[name]) for name, vector in vectors.items()}
    for name, vector in vectors.items():
        _add_scaled(update.sums[name].values, vector, units[name], peaks[name])
        update.sums[name].weight += units[name]
        update.sums[name].peak += peaks[name]
    add_totals(update.totals, {"clients": 1, "weight_squared": fixed(weight**2), **totals})


def _peak(into: Sum, name: str, vector: np.ndarray, units: int) -> int:
    """An upper bound on any |entry| that the vector adds. Raises UpdateRefused where it must not be added."""
    if vector.shape != into.values.shape:
        raise UpdateRefused(f"a {name} of shape {vector.shape} for a sum of shape {into.values.shape}")
    if vector.dtype == np.int64:
        peak = max(int(vector.max(initial=0)), -int(vector.min(initial=0)))
    else:
        largest = float(max(vector.max(initial=0.0), -vector.min(initial=0.0)))  # NaN and infinity survive
        if not np.isfinite(largest):
            raise UpdateRefused(f"a {name} that is not finite")
        peak = int(np.ceil(largest * units)) + 1
    check_range(into.peak + peak, into.weight + units)
    return peak


def _add_scaled(sums: np.ndarray, vector: np.ndarray, units: int, peak: int) -> None:
    """sums += round(units * vector), half to even, in place; += vector where it is whole units already."""
    if vector.dtype == np.int64:
        sums += vector
        return
    buffer = np.empty(min(CHUNK, len(vector)))
    for start in range(0, len(vector), CHUNK):
        chunk = vector[start : start + CHUNK]
        scaled = buffer[: len(chunk)]
        scaled[:] = chunk
        scaled *= units
        if peak < 1 << 51:
            scaled += ROUNDER
            whole = scaled.view(np.int64)
            whole -= ROUNDER_BITS
        else:
            whole = np.rint(scaled).astype(np.int64)
        sums[start : start + CHUNK] += whole


def merge(updates: Iterable[Update]) -> Update:
    """The sum of updates; the first one is extended in place, unless it only views a message's bytes.

    Raises UpdateRefused where names or lengths differ or a sum would leave its range; ValueError where there are none.
    """
    merged: Update | None = None
    for update in updates:
        if merged is None:
            merged = update
            continue
        if update.sums.keys() != merged.sums.keys():
            raise UpdateRefused(f"updates of {sorted(update.sums)} and {sorted(merged.sums)}")
        for name, theirs in update.sums.items():
            ours = merged.sums[name]
            if theirs.values.shape != ours.values.shape:
                raise UpdateRefused(f"updates of {len(theirs.values)} and {len(ours.values)} numbers")
            check_range(ours.peak + theirs.peak, ours.weight + theirs.weight)
        for name, theirs in update.sums.items():
            ours = merged.sums[name]
            ours.values = np.add(ours.values, theirs.values, out=ours.values if ours.values.flags.writeable else None)
            ours.weight += theirs.weight
            ours.peak += theirs.peak
        add_totals(merged.totals, update.totals)
    if merged is None:
        raise ValueError("no updates to merge")
    return merged


def mean(update: Update, name: str = DELTA) -> np.ndarray:
    """sum(a_k * x_k) / sum(a_k) of the named vector, float32 [length]."""
    added = update.sums[name]
    result = np.empty(len(added.values), np.float32)
    np.divide(added.values, added.weight, out=result, dtype=np.float64, casting="same_kind")
    return result


def add_totals(into: dict[str, int], totals: dict[str, int]) -> None:
    """Add further sums, in place."""
    for name, value in totals.items():
        into[name] = into.get(name, 0) + value


def check_range(peak: int, weight: int) -> None:
    """Raises UpdateRefused where entries up to `peak`, or a weight, do not fit into a sum."""
    if peak >= LIMIT or weight >= LIMIT:
        raise UpdateRefused("weights or deltas too large to be summed exactly")
