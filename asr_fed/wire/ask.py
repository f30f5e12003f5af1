"""Ask nodes to work on clients: orders go out, answers come in and are checked, and each missing client gets a reason.

Rounds, personalisation, and a node that asks its own workers use this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from flwr.app import Message, MessageType

from asr_fed.wire.hosts import Hosts, exchange
from asr_fed.wire.messages import Answer, Order, Refused, Timing
from asr_fed.wire.records import record_bytes, told
from asr_fed.wire.rounds import order_arrays, order_message, reply_ticket, ticket

AWAY = "no node that hosts it is there"
NO_ANSWER = "its node did not answer in time"

T = TypeVar("T", bound=Answer)


@dataclass(frozen=True)
class Assignment:
    """The clients that one node is asked for, and the seconds that this is expected to take."""

    node: int
    clients: tuple[str, ...]
    predicted: float = 0.0


@dataclass(frozen=True)
class Question(Generic[T]):
    """What a node has been asked. `read` checks and reads an answer for some clients; it raises Refused."""

    assignment: Assignment
    read: Callable[[Message, tuple[str, ...]], T]


def answer_of(
    reply: Message, questions: Mapping[str, Question[T]], reason_of: Callable[[Message], str]
) -> tuple[str, T | str] | None:
    """Which of the open questions, by ticket, a reply answers: its ticket, and the answer, or why there is none.

    None where it answers none of them: another order, or a second answer.
    """
    if reply.has_error():
        # An error carries no ticket: only its sender is known.
        sender = reply.metadata.src_node_id
        asked = (own for own, each in questions.items() if each.assignment.node == sender)
        return next(((own, told(reason_of(reply))) for own in asked), None)
    try:
        own = reply_ticket(reply)
    except Refused:
        return None
    if own not in questions:
        return None
    try:
        return own, questions[own].read(reply, questions[own].assignment.clients)
    except Refused as refused:
        return own, told(f"refused: {refused}")


def told_by(reply: Message) -> str:
    return reply.error.reason or "unknown error"


@dataclass
class Asked(Generic[T]):
    """The result of some assignments.

    answers: those that passed all checks, by node.
    failures: the reason for each client that is missing from the answers.
    dropped: answers to other orders, and second answers.
    waited: seconds to the last answer.
    """

    answers: dict[int, T] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    waited: float = 0.0

    def timing(self, node: int) -> Timing:
        """Zeros for a node that did not answer."""
        answer = self.answers.get(node)
        return Timing() if answer is None else answer.timing


def answers_of(parts: Sequence[Asked[T]]) -> Asked[T]:
    """What came of questions that were asked one after another, as of one; its answers are numbered, not by node."""
    whole: Asked[T] = Asked()
    for part in parts:
        for answer in part.answers.values():
            whole.answers[len(whole.answers)] = answer
        whole.failures |= part.failures
        whole.dropped += part.dropped
        whole.bytes_down += part.bytes_down
        whole.bytes_up += part.bytes_up
        whole.waited += part.waited
    return whole


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
    reason_of: Callable[[Message], str] = told_by,
) -> Asked[T]:
    """Send `order` to each assigned node, for the clients assigned to it, and collect the answers.

    Args:
        order: the same for all nodes; clients and ticket are filled in for each node.
        read: checks and reads an answer to an order for some clients; raises Refused.
        enough: whether the answers so far suffice.
        timeout: seconds after which missing answers are given up.
        patience: factor on a round's time limit for a client.
        reason_of: the reason for clients whose node answers with an error.
    """
    asked: Asked[T] = Asked()
    open_ = {ticket(order, each.node): Question(each, read) for each in assignments}  # without an answer
    arrays = order_arrays(order)
    messages = [
        order_message(each.assignment.node, replace(order, clients=each.assignment.clients, ticket=own), arrays, kind)
        for own, each in open_.items()
    ]
    asked.bytes_down = sum(map(record_bytes, messages))

    def admit(reply: Message) -> None:
        found = answer_of(reply, open_, reason_of)
        if found is None:
            asked.dropped += 1
            return
        own, answer = found
        assignment = open_.pop(own).assignment
        if isinstance(answer, str):
            asked.failures |= dict.fromkeys(assignment.clients, answer)
            return
        asked.answers[assignment.node] = answer
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
    for each in open_.values():
        asked.failures |= dict.fromkeys(each.assignment.clients, NO_ANSWER)
    asked.waited = max(done.seconds.values(), default=0.0)
    return asked
