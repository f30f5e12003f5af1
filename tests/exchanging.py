"""Messages and their replies, without a round around them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Message

from asr_fed.wire.hosts import Hosts, exchange
from asr_fed.wire.messages import Order
from asr_fed.wire.rounds import order_arrays, order_message
from tests.waiting import PATIENCE


def replies_to(hosts: Hosts, messages: Sequence[Message], patience: float = PATIENCE) -> list[Message]:
    """In the order of the messages' nodes. On a busy machine no client is to be stuck but one that is meant to."""
    replies: list[Message] = []
    exchange(hosts, messages, on_reply=replies.append, patience=patience)
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def order_to(node: int, clients: Sequence[str], weights: np.ndarray, **more: Any) -> Message:
    """An order to train; `more` are further fields of the Order."""
    order = Order(**{"server_round": 1, "lr": 0.1, "clients": tuple(clients), "weights": weights, **more})
    return order_message(node, order, order_arrays(order))
