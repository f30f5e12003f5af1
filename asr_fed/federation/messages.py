"""What travels between server and node, as Flower records: this file is the whole of it.

Down: the global state (float32) and an order (round, learning rate, client ids).
Up: one update (int64 sums and the numbers that were summed with them) and the clients that failed, by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from asr_fed.federation.update import Update


@dataclass(frozen=True)
class Order:
    """What a node is asked to do: train these clients from these weights."""

    server_round: int
    lr: float
    clients: tuple[str, ...]
    weights: np.ndarray


@dataclass(frozen=True)
class Reply:
    """A node's answer. `update` is None where none of its clients yielded one; `failures` says why, by client."""

    update: Update | None
    failures: dict[str, str]


def weights_record(weights: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"state": Array(weights)})


def order_message(node: int, server_round: int, lr: float, clients: Sequence[str], weights: ArrayRecord) -> Message:
    config = ConfigRecord({"round": server_round, "lr": lr, "clients": list(clients)})
    return Message(
        RecordDict({"arrays": weights, "config": config}), node, MessageType.TRAIN, group_id=str(server_round)
    )


def read_order(message: Message) -> Order:
    config: Any = message.content["config"]
    arrays: Any = message.content["arrays"]
    return Order(
        server_round=int(config["round"]),
        lr=float(config["lr"]),
        clients=tuple(config["clients"]),
        weights=arrays["state"].numpy(),
    )


def reply_message(order: Message, update: Update, failures: dict[str, str]) -> Message:
    content = RecordDict({"failures": ConfigRecord({"clients": list(failures), "reasons": list(failures.values())})})
    if update.weight:
        content["arrays"] = ArrayRecord({"sums": Array(update.sums)})
        content["metrics"] = MetricRecord({"weight": update.weight, "peak": update.peak})
        # Whole numbers of any size: a sum of squared weights can exceed the 64 bits of a MetricRecord.
        content["totals"] = ConfigRecord({name: str(value) for name, value in update.totals.items()})
    return Message(content, reply_to=order)


def read_reply(message: Message) -> Reply:
    failures: Any = message.content["failures"]
    named = dict(zip(failures["clients"], failures["reasons"], strict=True))
    if "arrays" not in message.content:
        return Reply(None, named)
    metrics: Any = message.content["metrics"]
    arrays: Any = message.content["arrays"]
    totals: Any = message.content["totals"]
    sums = arrays["sums"].numpy()
    update = Update(sums, metrics["weight"], metrics["peak"], {name: int(value) for name, value in totals.items()})
    return Reply(update, named)


def record_bytes(message: Message) -> int:
    """Bytes of the arrays that a message carries."""
    return sum(record.count_bytes() for record in message.content.array_records.values())
