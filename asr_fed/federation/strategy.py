"""The strategy in Flower's sense: whom to ask in a round, and what to make of the answers."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from asr_fed.aggregation.server_optimizer import ServerOptimizer, apply_update
from asr_fed.aggregation.update import ONE, Update, UpdateRefused, mean_delta, merge
from asr_fed.aggregation.weighting import weight_bounds
from asr_fed.config.schema import FederationConfig
from asr_fed.federation.cost import CostModel
from asr_fed.federation.roster import Roster
from asr_fed.federation.sampling import cohort_size, place, sample_cohort
from asr_fed.model.state import StateLayout
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import (
    Hosted,
    Refused,
    Reply,
    Timing,
    order_message,
    pack_vector,
    read_reply,
    record_bytes,
    reply_ticket,
    weights_record,
)

AWAY = "no node that hosts it is there"
NO_ANSWER = "its node did not answer in time"


@dataclass
class Share:
    """What one node was asked in a round, and what became of it; times in seconds."""

    node: int
    clients: list[str]
    predicted: float
    timing: Timing | None = None  # None: it has not answered


@dataclass
class Round:
    """What a round asked, got and lost. `shares` is by the ticket of each order."""

    cohort: list[str] = field(default_factory=list)
    shares: dict[str, Share] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    dropped: int = 0  # answers to another order than one of this round, or given twice
    success: float = 0.0  # share of the cohort's weight that is in the update


class SumOfUpdates(Strategy):
    """Global step: sum(a_k * delta_k) / sum(a_k), then the server optimizer.

    Every node gets one message with its share of the cohort and answers with one merged update. Clients weight
    themselves (`asr_fed.aggregation.weighting`), so the sums are all that the server sees. What a node sends is checked
    before it is added (`messages.read_reply`, and the bounds of the weighting).

    Args:
        roster: nodes and the clients they host.
        cost: predicts how long a node takes for a client.
    """

    def __init__(
        self,
        roster: Roster,
        settings: FederationConfig,
        weighting: object,
        seed: int,
        layout: StateLayout,
        optimizer: ServerOptimizer,
        cost: CostModel,
    ) -> None:
        self.roster, self.settings, self._weighting, self._seed = roster, settings, weighting, seed
        self._layout, self._optimizer, self.cost = layout, optimizer, cost
        self._weights = np.empty(0, dtype=np.float32)
        self._wanted = 0  # clients that are enough for this round
        self._attempts = 0
        self.round = Round()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message a node; `config["lr"]` is the learning rate of the round."""
        self._weights = arrays["state"].numpy()
        clients = self.roster.clients
        self._wanted = cohort_size(self.settings.cohort, len(clients))
        asked = min(len(clients), math.ceil(self.settings.over_commit * self._wanted))
        cohort = sample_cohort(list(clients), asked, self._seed, server_round)
        hosts = {client: self.roster.hosts(client) for client in cohort}
        placed = place([client for client in cohort if hosts[client]], hosts, self._seconds)
        self._attempts += 1
        self.round = Round(cohort, failures={client: AWAY for client in cohort if not hosts[client]})
        record, messages = weights_record(self._weights), []
        for node, share in placed.items():
            predicted = sum(self._seconds(node, client) for client in share)
            ticket = self._ticket(server_round, node)
            self.round.shares[ticket] = Share(node, share, predicted)
            messages.append(
                order_message(
                    node,
                    server_round,
                    float(config["lr"]),  # type: ignore[arg-type]
                    share,
                    record,
                    ticket=ticket,
                    setup=self.roster.setup.sha256,
                )
            )
        self.round.bytes_down = sum(map(record_bytes, messages))
        return messages

    def enough(self, replies: Iterable[Message]) -> bool:
        """Whether these hold as many clients as the cohort was meant to have, before over-commitment."""
        if self.settings.over_commit == 1:
            return False  # then only all are enough
        trained = 0
        for message in replies:
            if message.has_content() and "totals" in message.content:
                totals: Any = message.content["totals"]
                trained += int(totals.get("clients", "0"))
        return trained >= self._wanted

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global state and the round's metrics; (None, None) where too little of the cohort succeeded."""
        updates = [
            reply.update for reply in map(self._admit, replies) if reply is not None and reply.update is not None
        ]
        self._count_success()
        if not updates or self.round.success < self.settings.min_success:
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
        return ArrayRecord({"state": pack_vector(weights)}), round_metrics(update)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: clients measure their WER as a part of training, the server on its own dev set."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Flower calls this at the start of its own loop; our run directory says it better."""

    def _admit(self, message: Message) -> Reply | None:
        """A reply that may be added, each order's but once; None for what is dropped or refused."""
        if message.has_error():
            share = self._share_of(message)
            self._lose(share, message.error.reason or "unknown error")
            return None
        share = None
        try:
            share = self.round.shares.get(reply_ticket(message))
            if share is None or share.timing is not None:
                self.round.dropped += 1
                return None
            reply = read_reply(message, share.clients, self._layout.length)
            if reply.update is not None:
                self._check_weight(reply.update, [name for name in share.clients if name not in reply.failures])
        except Refused as refused:
            self._lose(share, f"refused: {refused}")
            return None
        share.timing = reply.timing
        self.round.failures |= reply.failures
        self.round.bytes_up += record_bytes(message)
        return reply

    def _lose(self, share: Share | None, reason: str) -> None:
        if share is None or share.timing is not None:
            self.round.dropped += 1
            return
        share.timing = Timing()
        self.round.failures |= dict.fromkeys(share.clients, reason)

    def _share_of(self, message: Message) -> Share | None:
        """Of an error, which bears no ticket, only the sender is known."""
        node = message.metadata.src_node_id
        return next((share for share in self.round.shares.values() if share.node == node), None)

    def _check_weight(self, update: Update, clients: Sequence[str]) -> None:
        bounds = [weight_bounds(self._weighting, self.roster.clients[name].examples) for name in clients]
        least, most = (sum(column) for column in zip(*bounds, strict=True))
        weight, slack = update.weight / ONE, 1e-6 * len(clients)  # each weight was rounded
        if not least * (1 - 1e-9) - slack <= weight <= most * (1 + 1e-9) + slack:
            raise Refused(f"a weight of {weight:g} for {len(clients)} client(s), outside {least:g} to {most:g}")

    def _count_success(self) -> None:
        """A client counts with the largest weight that it can have: weights of single clients are not known."""
        for share in self.round.shares.values():
            if share.timing is None:
                self.round.failures |= dict.fromkeys(share.clients, NO_ANSWER)
        worth = {
            name: weight_bounds(self._weighting, self.roster.clients[name].examples)[1] for name in self.round.cohort
        }
        if not all(map(math.isfinite, worth.values())):
            worth = dict.fromkeys(worth, 1.0)
        whole = sum(worth.values()) * min(1.0, self._wanted / max(1, len(self.round.cohort)))
        arrived = math.fsum(w for name, w in worth.items() if name not in self.round.failures)
        self.round.success = min(1.0, arrived / max(whole, 1e-9))

    def _seconds(self, node: int, client: str) -> float:
        return self.cost.predict(node, audio_seconds(self.roster.clients[client], self.settings))

    def _ticket(self, server_round: int, node: int) -> str:
        # Not secret: it tells apart the orders of one run, so that a late answer is known as one.
        return hashlib.sha256(f"{self._seed} {server_round} {self._attempts} {node}".encode()).hexdigest()[:16]


def audio_seconds(client: Hosted, settings: FederationConfig) -> float:
    """Seconds of audio that a round of this client goes through: training passes and one decoding."""
    passes: float = settings.local_epochs
    if settings.local_steps is not None and client.examples:
        passes = settings.local_steps * settings.batch.max_utterances / client.examples
    return client.train_seconds * passes + (client.dev_seconds or client.train_seconds)


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
