"""Ask nodes to work for their clients: orders out, checked answers in, a reason for every client that is missing.

Rounds, personalisation and a node that asks its own workers all go through here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from flwr.app import Message, MessageType

from asr_fed.wire.hosts import Hosts, exchange
from asr_fed.wire.messages import Answer, Order, Refused, Timing
from asr_fed.wire.records import readable, record_bytes
from asr_fed.wire.rounds import LONGEST_REASON, order_arrays, order_message, reply_ticket, ticket

AWAY = "no node that hosts it is there"
NO_ANSWER = "its node did not answer in time"

T = TypeVar("T", bound=Answer)


@dataclass(frozen=True)
class Assignment:
    """The clients that one node is asked for, and how many seconds that will take it, as far as is known."""

    node: int
    clients: tuple[str, ...]
    predicted: float = 0.0


@dataclass
class Asked(Generic[T]):
    """What came of some assignments.

    answers: by node, those that were admitted.
    failures: the reason for each client that is in no answer.
    dropped: answers to another order than one of these, or given twice.
    waited: seconds to the last answer.
    """

    answers: dict[int, T] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    waited: float = 0.0

    def timing(self, node: int) -> Timing:
        """A node that did not answer has worked for no known time."""
        answer = self.answers.get(node)
        return Timing() if answer is None else answer.timing


def ask(
    hosts: Hosts,
    order: Order,
    assignments: Sequence[Assignment],
    read: Callable[[Message, tuple[str, ...]], T],
    *,
    kind: str = MessageType.TRAIN,
    enough: Callable[[Sequence[T]], bool] = lambda answers: False,
    timeout: float | None = None,
    patience: float = 1.0,
    reason_of: Callable[[Message], str] = lambda reply: reply.error.reason or "unknown error",
) -> Asked[T]:
    """Send `order` to each assigned node, for the clients assigned to it, and gather what they answer.

    Args:
        order: what all nodes are asked alike; its clients are filled in, its ticket is made one for each node.
        read: checks an answer to an order for some clients and makes an object of it; raises Refused.
        enough: whether the answers admitted so far are as many as are needed.
        timeout: seconds after which what has not come is given up.
        patience: how many times as long as in a round the work on a client may take.
        reason_of: the reason that is noted for clients whose node answers with an error.
    """
    asked: Asked[T] = Asked()
    orders = {ticket(order, each.node): each for each in assignments}
    open_ = set(orders)  # tickets without an answer
    arrays = order_arrays(order)
    messages = [
        order_message(each.node, replace(order, clients=each.clients, ticket=own), arrays, kind)
        for own, each in orders.items()
    ]
    asked.bytes_down = sum(map(record_bytes, messages))

    def lose(own: str | None, reason: str) -> None:
        if own is None or own not in open_:
            asked.dropped += 1
            return
        open_.remove(own)
        asked.failures |= dict.fromkeys(orders[own].clients, readable(reason)[:LONGEST_REASON])

    def admit(reply: Message) -> None:
        if reply.has_error():
            # An error bears no ticket: only its sender is known.
            sender = reply.metadata.src_node_id
            lose(next((own for own, each in orders.items() if each.node == sender), None), reason_of(reply))
            return
        own = None
        try:
            own = reply_ticket(reply)
            if own not in open_:
                asked.dropped += 1
                return
            answer = read(reply, orders[own].clients)
        except Refused as refused:
            lose(own, f"refused: {refused}")
            return
        open_.remove(own)
        asked.answers[orders[own].node] = answer
        asked.failures |= answer.failures
        asked.bytes_up += record_bytes(reply)

    done = exchange(
        hosts,
        messages,
        on_reply=admit,
        enough=lambda: enough(list(asked.answers.values())),
        timeout=timeout,
        patience=patience,
    )
    asked.dropped += hosts.give_up(done.unanswered)
    for own in sorted(open_):
        asked.failures |= dict.fromkeys(orders[own].clients, NO_ANSWER)
    asked.waited = max(done.seconds.values(), default=0.0)
    return asked
