"""The mean of the weights after the last steps of a training: stochastic weight averaging (arXiv 1803.05407), for a
federation over the server's weights (arXiv 2203.11834).

    w_mean = 1 / n * sum of w_t over t = T - n + 1, ..., T

where a step t is a round of a federation or an epoch of central training, of the T planned. BatchNorm's running means
and variances take part as all other weights do; the paper's extra pass over the data for them is left out, since a
server has no such data.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WeightSum:
    """A running sum of weights: `total` is float64 [state], None before the first of `count`.

    Summed in the order of the steps, so that a resumed training has the same bits.
    """

    total: np.ndarray | None = None
    count: int = 0

    def mean(self) -> np.ndarray:
        """float32 [state]. Raises ValueError where nothing was added."""
        if self.total is None:
            raise ValueError("no weights to average")
        averaged: np.ndarray = (self.total / self.count).astype(np.float32)
        return averaged


def add_if_last(so_far: WeightSum, weights: np.ndarray, step: int, steps: int, last: int | float | None) -> WeightSum:
    """The sum after `step` (from 1) of `steps`: with `weights` where it is one of the last, else as it was.

    last: how many steps are averaged, as a number or as a share of all; None: none.
    """
    if last is None or step <= steps - averaged_steps(steps, last):
        return so_far
    total = weights.astype(np.float64) if so_far.total is None else so_far.total + weights
    return WeightSum(total, so_far.count + 1)


def averaged_steps(steps: int, last: int | float) -> int:
    return max(1, round(last * steps)) if isinstance(last, float) else last
