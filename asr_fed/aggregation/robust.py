"""Nodes that may lie about what their clients learned: how much one of them can move the sum.

All of this is about nodes, each with the mean change that it reports: sum(a_k delta_k) / sum(a_k), and with the means
of the algorithm's further vectors. It needs the update of each node by itself, and so cannot go together with secure
aggregation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from asr_fed.aggregation.update import DELTA, ONE, Sum, Update, UpdateRefused, add_totals, check_range, merge
from asr_fed.config.federation import RobustConfig, Rule

Part = tuple[str, slice]  # the name of a vector, and entries of it
Norms = list[float]  # of each part of an update, the median over the nodes of a round that have learned something
REMEMBERED = 5  # rounds, the present one among them, whose norms say what is usual


@dataclass(frozen=True)
class Combined:
    """The update of several nodes.

    norms: of this round, for `remembered`; None where nobody asks, or fewer than three nodes have learned something.
    clipped: how many nodes' updates were shortened.
    """

    update: Update
    norms: Norms | None = None
    clipped: int = 0


def combine(
    updates: Sequence[Update], settings: RobustConfig, parameters: int | None = None, past: Sequence[Norms] = ()
) -> Combined:
    """One update of several nodes'. The first `parameters` entries of the change are no buffers; None: all.

    `past`: the norms of the rounds before, as `remembered` keeps them.

    Raises UpdateRefused where the sums leave their range, or where the nodes are too few for the rule.
    """
    norms, before = None, updates
    if settings.clip is not None or settings.clip_median is not None:
        updates, norms = _clipped(updates, settings, parameters, past)
    clipped = sum(one is not other for one, other in zip(updates, before, strict=True))
    return Combined(_by_rule(updates, settings, parameters), norms, clipped)


def remembered(past: Sequence[Norms], norms: Norms | None) -> list[Norms]:
    """What the next round has to know of the ones before it."""
    return [*past, *([] if norms is None else [norms])][-(REMEMBERED - 1) :]


def describe_unbounded(settings: RobustConfig) -> str:
    """What an operator has to know where nothing bounds the update of a node; empty otherwise."""
    if settings.clip is not None or settings.clip_median is not None or settings.rule is not Rule.mean:
        return ""
    return (
        "Nothing bounds what one node does to the sum: one that lies can replace the model. "
        "federation.robust.clip_median=3 shortens updates of unusual length (docs/threat_model.md)."
    )


def _by_rule(updates: Sequence[Update], settings: RobustConfig, parameters: int | None) -> Update:
    if settings.rule is Rule.mean:
        return merge(updates)
    means = {name: np.stack([_mean(update, name) for update in updates]) for name in updates[0].sums}
    krum = settings.rule is Rule.multi_krum
    middle = {
        name: _mean_of_chosen(values, settings, parameters) if krum and name == DELTA else _middle(values, settings)
        for name, values in means.items()
    }
    sums = {name: _summed(values, sum(each.sums[name].weight for each in updates)) for name, values in middle.items()}
    totals: dict[str, int] = {}
    for update in updates:
        add_totals(totals, update.totals)
    return Update(sums, totals)


def multi_krum(changes: np.ndarray, liars: int) -> list[int]:
    """Those n - f - 2 of n nodes whose changes (float64 [n, parameters]) others come closest to; f of them may lie.

    The score of node i is the sum of |V_i - V_j|^2 over the n - f - 2 nodes j that are closest to it, and the lowest
    scores are chosen: Blanchard et al., arXiv 1703.02757; how many, as in Damaskinos et al., AggregaThor, MLSys 2019.
    Raises UpdateRefused where n < 2 f + 3.
    """
    nodes = len(changes)
    if nodes < 2 * liars + 3:
        raise UpdateRefused(f"multi_krum with liars={liars} needs {2 * liars + 3} nodes, and {nodes} have answered")
    closest = nodes - liars - 2
    distances = np.sort(squareform(pdist(changes, "sqeuclidean")), axis=1)  # each node is the closest one to itself
    scores = distances[:, 1 : closest + 1].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[:closest].tolist())


def _mean_of_chosen(changes: np.ndarray, settings: RobustConfig, parameters: int | None) -> np.ndarray:
    """Of changes [nodes, length]: the mean of the parameters over chosen nodes, and the median of buffers over all."""
    own, buffers = np.split(changes, [changes.shape[1] if parameters is None else parameters], axis=1)
    chosen = multi_krum(own, settings.liars)
    return np.concatenate([own[chosen].mean(axis=0), _middle(buffers, settings)])


def norm(update: Update, part: Part = (DELTA, slice(None))) -> float:
    """L2 norm of a part of what the node reports, as a mean over its clients."""
    name, entries = part
    return float(np.linalg.norm(_mean(update, name, entries)))


def _clipped(
    updates: Sequence[Update], settings: RobustConfig, parameters: int | None, past: Sequence[Norms]
) -> tuple[list[Update], Norms | None]:
    """The parameters of each node within the limits, and all else shortened in the same ratio at least.

    With `clip_median` buffers, and each further vector, are held to that multiple of their own usual norm, too: else
    a node that leaves the parameters alone could send any running variance. The usual norm is the median of the last
    rounds' medians, so that liars who are most of one round's nodes do not say what is usual.

    Nodes that report no change of the parameters do not count: silos whose clients trust nothing that they hear
    (`federation.pseudo_labels`) may be most of all, and what the others learn would be shortened to nothing for ever.
    """
    parts: list[Part] = [(DELTA, slice(0, parameters))]
    if parameters is not None:
        parts.append((DELTA, slice(parameters, None)))
    parts += [(name, slice(None)) for name in updates[0].sums if name != DELTA]
    norms = np.array([[norm(update, part) for part in parts] for update in updates])
    learned = norms[norms[:, 0] > 0]
    own: Norms | None = np.median(learned, axis=0).tolist() if len(learned) > 2 else None  # of two neither is usual
    usual = [*past, own] if own is not None else list(past)
    limits = np.full(len(parts), np.inf)
    if settings.clip_median is not None and usual:
        limits = settings.clip_median * np.median(usual, axis=0)
    if settings.clip is not None:
        limits[0] = min(limits[0], settings.clip)
    ratios = np.divide(limits, norms, out=np.ones_like(norms), where=norms > limits)
    ratios = np.minimum(ratios, ratios[:, :1])
    return [_shortened(update, parts, ratio) for update, ratio in zip(updates, ratios, strict=True)], own


def _shortened(update: Update, parts: Sequence[Part], ratios: np.ndarray) -> Update:
    if (ratios == 1).all():
        return update
    sums = {name: Sum(each.values.copy(), each.weight, each.peak) for name, each in update.sums.items()}
    for (name, entries), ratio in zip(parts, ratios, strict=True):
        if ratio < 1:
            values = sums[name].values
            values[entries] = np.rint(values[entries] * ratio).astype(np.int64)
    return Update(sums, update.totals)


def _middle(values: np.ndarray, settings: RobustConfig) -> np.ndarray:
    """Of each entry over nodes, values [nodes, length]: the mean without both ends, or the median."""
    nodes = len(values)
    cut = int(settings.trim * nodes) if settings.rule is Rule.trimmed_mean else (nodes - 1) // 2
    middle: np.ndarray = np.sort(values, axis=0)[cut : nodes - cut].mean(axis=0)
    return middle


def _mean(update: Update, name: str, entries: slice = slice(None)) -> np.ndarray:
    """float64 [entries]"""
    own = update.sums[name]
    if own.weight < 1:
        raise UpdateRefused(f"a weight of {own.weight / ONE}")
    mean: np.ndarray = own.values[entries] / own.weight
    return mean


def _summed(mean: np.ndarray, weight: int) -> Sum:
    """The sum that has this mean. Raises UpdateRefused where it leaves its range."""
    values = np.rint(mean * weight)
    peak = int(max(values.max(initial=0), -values.min(initial=0)))
    check_range(peak, weight)
    return Sum(values.astype(np.int64), weight, peak)
