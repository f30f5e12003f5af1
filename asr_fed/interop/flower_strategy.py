"""For users of Flower: a strategy that Flower's own loop drives, with our weights, exact sums and server optimizers.

    strategy = WeightedStrategy(WerSoftmax(), optimizer=FedAvgM(server_momentum=0.7), fraction_evaluate=0.0)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=20)

ClientApps are ordinary ones: each reply has one ArrayRecord, the local weights under the same names as received, and
one MetricRecord with `num-examples`, `wer` (a fraction) and `loss`. See docs/flower.md.
"""

import logging
import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

from asr_fed.aggregation.server_optimizer import FedAvg, ServerOptimizer, server_step
from asr_fed.aggregation.update import ONE, UpdateRefused, add_client, empty, mean
from asr_fed.aggregation.weighting import Measured, Weighting
from asr_fed.model.state import StateLayout

WER, LOSS = "wer", "loss"

log = logging.getLogger(__name__)


class WeightedStrategy(FlowerFedAvg):
    """Global step: sum(a_k * delta_k) / sum(a_k), where `weighting` computes a_k from a reply's metrics.

    Sampling, messages and federated evaluation are those of Flower's FedAvg. Sums are exact, so the weights do not
    depend on the order of the replies. Integer arrays, such as BatchNorm's counters, are not changed.

    Args:
        weighting: such as WerSoftmax(), LossSoftmax() or NumExamples() of asr_fed.aggregation.weighting.
        optimizer: such as FedAvgM, FedAdam or Lamb of asr_fed.aggregation.server_optimizer.
        plain: names of arrays that always take the plain mean: running means and variances.
        flower: arguments of Flower's FedAvg.
    """

    def __init__(
        self,
        weighting: Weighting,
        optimizer: ServerOptimizer | None = None,
        plain: Collection[str] = (),
        **flower: Any,
    ) -> None:
        super().__init__(**flower)
        self._weighting, self._optimizer, self._plain = weighting, optimizer or FedAvg(), frozenset(plain)
        self._arrays: dict[str, np.ndarray] = {}
        self._state: dict[str, Any] | None = None
        self._loss = 0.0  # of the previous round, the reference of loss weights

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._arrays = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global arrays, and the round's metrics; (None, None) where no reply can be added.

        Raises Flower's InconsistentMessageReplies if replies differ in their records or names.
        """
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        layout = self._layout()
        weights = self._flat(self._arrays, layout)
        if self._state is None:
            self._state = self._optimizer.init(weights[: layout.parameters])
        measured = [self._measured(reply) for reply in valid]
        if server_round == 1:
            self._loss = _mean_finite(each.loss for each in measured)
        update, added, losses = empty(layout.length), [], []
        for reply, each in zip(valid, measured, strict=True):
            own = {name: array.numpy() for name, array in self._array_record(reply).items()}
            weight = self._weighting(Measured(each.num_examples, each.wer, each.loss, self._loss))
            try:
                add_client(update, self._flat(own, layout) - weights, weight, {})
            except UpdateRefused as refused:
                log.warning("the reply of node %d is left out: %s", reply.metadata.src_node_id, refused)
                continue
            added.append(reply)
            losses.append(each.loss)
        if not added:
            return None, None
        following, self._state = server_step(self._optimizer, weights, mean(update), self._state, layout)
        self._loss = _mean_finite(losses)
        metrics = self.train_metrics_aggr_fn([reply.content for reply in added], self.weighted_by_key)
        total = update.weight / ONE
        metrics["weight-sum"] = total
        metrics["effective-clients"] = total**2 / (update.totals["weight_squared"] / ONE)
        return self._unflat(following, layout), metrics

    def _layout(self) -> StateLayout:
        """Layout with the arrays that the optimizer changes first, then those that take the plain mean."""
        floating = [name for name, array in self._arrays.items() if np.issubdtype(array.dtype, np.floating)]
        moved = [name for name in floating if name not in self._plain]
        names = (*moved, *(name for name in floating if name in self._plain))
        sizes = tuple(self._arrays[name].size for name in names)
        return StateLayout(names, sizes, sum(sizes[: len(moved)]))

    def _flat(self, arrays: dict[str, np.ndarray], layout: StateLayout) -> np.ndarray:
        parts = [arrays[name].astype(np.float32, copy=False).ravel() for name in layout.names]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _unflat(self, vector: np.ndarray, layout: StateLayout) -> ArrayRecord:
        following, start = dict(self._arrays), 0
        for name, size in zip(layout.names, layout.sizes, strict=True):
            old = self._arrays[name]
            following[name] = vector[start : start + size].reshape(old.shape).astype(old.dtype, copy=False)
            start += size
        return ArrayRecord({name: Array(array) for name, array in following.items()})

    def _array_record(self, reply: Message) -> ArrayRecord:
        return next(iter(reply.content.array_records.values()))

    def _measured(self, reply: Message) -> Measured:
        metrics: Any = next(iter(reply.content.metric_records.values()))
        return Measured(int(metrics[self.weighted_by_key]), float(metrics.get(WER, 1.0)), float(metrics.get(LOSS, 0.0)))


def _mean_finite(losses: Iterable[float]) -> float:
    """The mean of the finite values, without diverged clients; 0 if there are none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return math.fsum(finite) / len(finite) if finite else 0.0
