"""How unequal some amounts are."""

from collections.abc import Sequence
from math import fsum
from statistics import median


def gini(values: Sequence[float]) -> float:
    """Gini coefficient of non-negative values: 0 where all are equal, (n - 1) / n where one holds everything.

    G = sum_i (2 i - n - 1) x_i / (n sum_i x_i) with x sorted ascending and i = 1..n; this is half the mean absolute
    difference of all pairs, divided by the mean (Gini, 1912). If all values are 0, G is 0.
    """
    n, total = len(values), fsum(values)
    if total == 0:
        return 0.0
    ranked = fsum((2 * i - n - 1) * value for i, value in enumerate(sorted(values), start=1))
    return ranked / (n * total)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and Gini coefficient of at least one value."""
    return {"min": min(values), "median": median(values), "max": max(values), "gini": gini(values)}
