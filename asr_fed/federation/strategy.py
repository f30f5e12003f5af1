"""The strategy in Flower's sense: whom to ask in a round, and what to make of the answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from asr_fed.errors import UserError
from asr_fed.federation.messages import order_message, read_reply, record_bytes, weights_record
from asr_fed.federation.sampling import cohort_size, place, sample_cohort
from asr_fed.federation.server_optimizer import ServerOptimizer, apply_update
from asr_fed.federation.update import ONE, Update, UpdateRefused, mean_delta, merge
from asr_fed.training.state import StateLayout


@dataclass
class Traffic:
    """What a round sent, asked and lost."""

    cohort: list[str] = field(default_factory=list)
    bytes_down: int = 0
    bytes_up: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class SumOfUpdates(Strategy):
    """Global step: sum(a_k * delta_k) / sum(a_k), then the server optimizer.

    Every node gets one message with its share of the cohort and answers with one merged update. Clients weight
    themselves (`asr_fed.federation.weighting`), so the sums are all that the server sees.

    Args:
        cost: each client's predicted cost, for placement; its keys are the clients.
    """

    def __init__(
        self,
        cost: Mapping[str, float],
        cohort: int | float | None,
        seed: int,
        layout: StateLayout,
        optimizer: ServerOptimizer,
    ) -> None:
        self._cost, self._seed, self._layout, self._optimizer = cost, seed, layout, optimizer
        self._size = cohort_size(cohort, len(cost))
        self._weights = np.empty(0, dtype=np.float32)
        self._asked: dict[int, list[str]] = {}
        self.traffic = Traffic()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message a node; `config["lr"]` is the learning rate of the round."""
        self._weights = arrays["state"].numpy()
        cohort = sample_cohort(list(self._cost), self._size, self._seed, server_round)
        self._asked = place(cohort, self._cost, list(grid.get_node_ids()))
        record = weights_record(self._weights)
        messages = [
            order_message(node, server_round, float(config["lr"]), clients, record)  # type: ignore[arg-type]
            for node, clients in self._asked.items()
        ]
        self.traffic = Traffic(cohort=cohort, bytes_down=sum(map(record_bytes, messages)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global state and the round's metrics, or (None, None) where no client succeeded."""
        updates = []
        for message in replies:
            if message.has_error():
                lost = self._asked[message.metadata.src_node_id]
                self.traffic.failures |= dict.fromkeys(lost, message.error.reason or "unknown error")
                continue
            reply = read_reply(message)
            self.traffic.failures |= reply.failures
            self.traffic.bytes_up += record_bytes(message)
            if reply.update is not None:
                updates.append(reply.update)
        if not updates:
            return None, None
        try:
            update = merge(updates)
        except UpdateRefused as refused:
            raise UserError(f"Round {server_round}: the nodes' updates cannot be added: {refused}.") from refused
        weights = apply_update(self._optimizer, self._weights, mean_delta(update), self._layout, server_round)
        if not np.isfinite(weights).all():
            raise UserError(
                f"Round {server_round} made the global weights infinite. Lower federation.lr or the server's "
                "learning rate, and resume from the last checkpoint."
            )
        return ArrayRecord({"state": Array(weights)}), round_metrics(update)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: clients measure their WER as a part of training, the server on its own dev set."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Flower calls this at the start of its own loop; our run directory says it better."""


def round_metrics(update: Update) -> MetricRecord:
    """What the summed numbers say of a round, all independent of the order of summation."""
    totals, clients = update.totals, update.totals["clients"]
    squares = totals["weight_squared"] / ONE
    return MetricRecord(
        {
            "clients": clients,
            "weight_sum": update.weight / ONE,
            "effective_clients": (update.weight / ONE) ** 2 / squares if squares else float(clients),
            "loss": totals["loss"] / ONE / clients,
            "client_wer": 100 * totals["word_errors"] / max(1, totals["words"]),
            "examples": totals["examples"],
            "skipped_steps": totals["skipped_steps"],
            "audio_seconds": totals["audio_milliseconds"] / 1000,
            "train_seconds": totals["train_milliseconds"] / 1000,
        }
    )
