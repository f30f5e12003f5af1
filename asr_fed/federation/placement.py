"""Which node trains which client, so that the last node finishes early: the idea of Pollen, arXiv 2306.17453.

How long a node needs for a client is learned from earlier rounds.

The time of a client with x seconds of audio is modelled as t(x) = a x + b log(1 + x) + d with a, b, d >= 0, so it is
never negative and never falls with x. The model is linear in (x, log(1 + x), 1), so the time of several clients is the
model of their summed terms. One measurement of many clients is therefore a valid row of the least squares, like one of
a single client, and the ratio of a worker's measured to its predicted time is a quotient of two sums.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

FEW = 8  # measurements that are needed to fit a curve
ALIKE = 2.0  # and the factor by which their audio per client has to differ
CARRY = 0.25  # weight of the latest round in the correction: twice as slow is seen as 1.94x after two rounds


def place(
    cohort: Sequence[str], hosts: Mapping[str, Sequence[int]], seconds: Callable[[int, str], float]
) -> dict[int, list[str]]:
    """Deal clients to nodes that host them, longest first, each to the node that would finish it first.

    `hosts[client]` are the nodes that may train a client, `seconds(node, client)` is the time it would take there;
    clients are ordered by the time of their fastest host. Clients with a single host leave no choice and are dealt
    first. On equal nodes this is the longest-processing-time rule: the last node to finish takes at most 4/3 of the
    best possible time (Graham, 1969).

    Returns the clients of each node, longest first; nodes without clients are left out. It does not depend on the
    order of `cohort` or of hosts. Raises ValueError where no node hosts a client.
    """
    times = {client: {node: seconds(node, client) for node in sorted(hosts[client])} for client in cohort}
    if homeless := [client for client, there in times.items() if not there]:
        raise ValueError(f"no node hosts {', '.join(homeless[:3])}")
    finish: dict[int, float] = defaultdict(float)
    placed: dict[int, list[str]] = defaultdict(list)
    for client in sorted(times, key=lambda client: (len(times[client]) > 1, -min(times[client].values()), client)):
        finished, node = min((finish[node] + time, node) for node, time in times[client].items())
        finish[node] = finished
        placed[node].append(client)
    return {
        node: sorted(clients, key=lambda client: (-times[client][node], client))
        for node, clients in sorted(placed.items())
    }


@dataclass
class _Node:
    window: deque[np.ndarray]  # rows of (sum of x, sum of log(1 + x), clients, seconds)
    round: np.ndarray = field(default_factory=lambda: np.zeros(4))  # summed rows of the current round
    recent: np.ndarray = field(default_factory=lambda: np.zeros(4))  # and of earlier rounds, with falling weight


@dataclass
class CostModel:
    """Seconds that a node needs for a client, by the client's seconds of audio.

    Call `observe` for each measurement and `end_round` after each round; `predict` is for the next round. A node's
    curve is fitted to its last `window` measurements. While it has fewer than `FEW`, the measurements of all nodes are
    used. While these are too few, or their clients too similar, time is taken as proportional to audio (at first 1 s
    for 1 s). The curve is then scaled by the ratio of measured to predicted seconds of the node's last rounds.
    """

    window: int = 256
    _nodes: dict[int, _Node] = field(default_factory=dict, init=False, repr=False)
    _curves: dict[int, tuple[float, float, float]] = field(default_factory=dict, init=False, repr=False)
    _shared: np.ndarray | None = field(default=None, init=False, repr=False)

    def observe(self, node: int, audio_seconds: float | Sequence[float], seconds: float) -> None:
        """`node` took `seconds` for one client, or for several clients together, whose audio is listed.

        Negative and non-finite values are ignored.
        """
        audio = np.atleast_1d(np.asarray(audio_seconds, dtype=np.float64))
        if (
            not audio.size
            or not np.isfinite(audio).all()
            or not math.isfinite(seconds)
            or min(audio.min(), seconds) < 0
        ):
            return
        row = np.array([audio.sum(), np.log1p(audio).sum(), audio.size, seconds])
        known = self._nodes.setdefault(node, _Node(deque(maxlen=self.window)))
        known.window.append(row)
        known.round += row

    def end_round(self) -> None:
        """Use what was observed since the last call in predictions."""
        for node in self._nodes.values():
            if node.round.any():
                node.recent = CARRY * node.recent + node.round
                node.round = np.zeros(4)
        self._curves, self._shared = {}, None

    def predict(self, node: int, audio_seconds: float) -> float:
        """Seconds that `node` will need for a client with `audio_seconds` of audio."""
        if node not in self._curves:
            self._curves[node] = self._curve(node)
        a, b, d = self._curves[node]
        return a * audio_seconds + b * math.log1p(audio_seconds) + d

    def _curve(self, node: int) -> tuple[float, float, float]:
        known = self._nodes.get(node)
        curve = self._shared_curve() if known is None or len(known.window) < FEW else _fit(known.window)
        if known is not None:
            predicted = curve @ known.recent[:3]
            if predicted > 1e-9 * known.recent[3]:  # otherwise its clients were too different
                curve = curve * (known.recent[3] / predicted)
        a, b, d = curve.tolist()
        return a, b, d

    def _shared_curve(self) -> np.ndarray:
        if self._shared is None:
            self._shared = _fit(row for node in self._nodes.values() for row in node.window)
        return self._shared


def _fit(measured: Iterable[np.ndarray]) -> np.ndarray:
    """The curve (a, b, d), none negative, fitted to rows as in `_Node.window` by least squared relative error."""
    rows = np.array([*measured]).reshape(-1, 4)
    if not rows[:, 3:].any():
        return np.array([1.0, 0.0, 0.0])
    sizes = rows[:, 0] / rows[:, 2]
    if len(rows) < FEW or sizes.max() < ALIKE * sizes.min():
        return np.array([rows[:, 3].sum() / max(rows[:, 0].sum(), 1.0), 0.0, 0.0])
    rows /= rows[:, :1] + rows[:, 2:3]  # x + 1 stands for the time of a client: short clients count as much
    terms, seconds = rows[:, :3], rows[:, 3]
    curve: np.ndarray = nnls(terms, seconds)[0]
    return curve
