"""Nodes that may lie about what their clients learned: how much one of them can move the sum.

All of this is about nodes, each with the mean change that it reports: sum(a_k delta_k) / sum(a_k). It needs the update
of each node by itself, and so cannot go together with secure aggregation.
"""

from collections.abc import Sequence

import numpy as np

from asr_fed.aggregation.update import DELTA, ONE, Sum, Update, UpdateRefused, empty, merge
from asr_fed.config.federation import RobustConfig, Rule


def combine(updates: Sequence[Update], settings: RobustConfig, parameters: int | None = None) -> Update:
    """One update of several nodes'. The norm is that of the first `parameters` entries; None: of all.

    Raises UpdateRefused where the sums leave their range.
    """
    if settings.on:
        limit = _limit([norm(update, parameters) for update in updates], settings)
        updates = [update if limit is None else clipped(update, limit, parameters) for update in updates]
    if settings.rule is Rule.mean:
        return merge(updates)
    deltas = np.stack([_mean(update) for update in updates])
    cut = int(settings.trim * len(deltas)) if settings.rule is Rule.trimmed_mean else (len(deltas) - 1) // 2
    middle = np.sort(deltas, axis=0)[cut : len(deltas) - cut].mean(axis=0)
    merged = merge([_without_delta(update) for update in updates])
    values = np.rint(middle * merged.weight).astype(np.int64)
    peak = int(max(values.max(initial=0), -values.min(initial=0)))
    return Update(merged.sums | {DELTA: Sum(values, merged.weight, peak)}, merged.totals)


def norm(update: Update, parameters: int | None = None) -> float:
    """L2 norm of the node's mean change."""
    return float(np.linalg.norm(_mean(update)[:parameters]))


def clipped(update: Update, limit: float, parameters: int | None = None) -> Update:
    """The same, with its mean change shortened to at most this norm: buffers in the same ratio."""
    length = norm(update, parameters)
    if not length > limit:
        return update
    own = update.sums[DELTA]
    values = np.rint(own.values * (limit / length)).astype(np.int64)
    return Update(update.sums | {DELTA: Sum(values, own.weight, own.peak)}, update.totals)


def _limit(norms: Sequence[float], settings: RobustConfig) -> float | None:
    limits = [] if settings.clip is None else [settings.clip]
    if settings.clip_median is not None and len(norms) > 2:
        limits.append(settings.clip_median * float(np.median(norms)))
    return min(limits, default=None)


def _mean(update: Update) -> np.ndarray:
    """float64 [length]"""
    own = update.sums[DELTA]
    if own.weight < 1:
        raise UpdateRefused(f"a weight of {own.weight / ONE}")
    mean: np.ndarray = own.values / own.weight
    return mean


def _without_delta(update: Update) -> Update:
    """The rest of it, and its weight."""
    nothing = empty(len(update.sums[DELTA].values)).sums[DELTA]
    copies = {name: Sum(each.values.copy(), each.weight, each.peak) for name, each in update.sums.items()}
    return Update(copies | {DELTA: Sum(nothing.values, update.weight)}, dict(update.totals))
