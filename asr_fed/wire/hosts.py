"""Who hosts clients, as the rounds see it: our own workers, or remote nodes that come and go."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Message

PAUSE = 0.1  # seconds between two polls of hosts whose `receive` does not wait


class Hosts(Protocol):
    """Two implementations: `asr_fed.engines.workers.Workers` and `RemoteNodes`."""

    @property
    def expected(self) -> int | None:
        """The number of nodes from the start; None if nodes come and go."""
        ...

    def get_node_ids(self) -> Iterable[int]:
        """Who is there now."""
        ...

    def send(self, messages: Sequence[Message], patience: float = 1.0) -> list[str]:
        """Send each message to its node; returns their ids. Work may take `patience` times as long as in a round."""
        ...

    def receive(self, message_ids: Collection[str]) -> list[Message]:
        """Replies to these messages that have arrived, each once."""
        ...

    def give_up(self, message_ids: Collection[str]) -> int:
        """Stop waiting for replies to these messages; returns how many late answers have been thrown away."""
        ...

    def client_seconds(self) -> list[tuple[int, str, float]] | None:
        """Node, client and seconds of each training since the last call; None if only the nodes know."""
        ...


class Line(Protocol):
    """What is needed of a Flower grid."""

    def get_node_ids(self) -> Iterable[int]: ...

    def push_messages(self, messages: Sequence[Message]) -> Iterable[str]: ...

    def pull_messages(self, message_ids: Collection[str]) -> Iterable[Message]: ...


class RemoteNodes:
    """The nodes of a grid. A node that did not answer in time may still do so: such answers are thrown away."""

    def __init__(self, grid: Line) -> None:
        self._grid = grid
        self._late: set[str] = set()  # messages that were given up and are not yet answered

    @property
    def expected(self) -> int | None:
        return None

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def send(self, messages: Sequence[Message], patience: float = 1.0) -> list[str]:
        """Nodes stretch their own limits. Raises ConnectionError where the grid does not take all messages."""
        ids = list(self._grid.push_messages(messages)) if messages else []
        if len(ids) != len(messages) or None in ids:
            raise ConnectionError("the grid did not take all messages: they may be larger than it allows")
        return ids

    def receive(self, message_ids: Collection[str]) -> list[Message]:
        return list(self._grid.pull_messages(message_ids))

    def give_up(self, message_ids: Collection[str]) -> int:
        thrown_away = {answer.metadata.reply_to_message_id for answer in self._pull_late()}
        self._late = (self._late - thrown_away) | set(message_ids)
        return len(thrown_away)

    def _pull_late(self) -> list[Message]:
        return list(self._grid.pull_messages(self._late)) if self._late else []

    def client_seconds(self) -> list[tuple[int, str, float]] | None:
        return None


@dataclass
class Exchange:
    """The result of sending some messages: seconds from sending to each reply, by message id, and ids without a
    reply."""

    seconds: dict[str, float] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)


def exchange(
    hosts: Hosts,
    messages: Sequence[Message],
    *,
    on_reply: Callable[[Message], None],
    enough: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
    patience: float = 1.0,
) -> Exchange:
    """Send the messages and pass each reply to `on_reply`, until all have arrived, there are `enough`, or time is
    up."""
    started = time.monotonic()
    ids = hosts.send(messages, patience)
    result = Exchange()
    while len(result.seconds) < len(ids) and not enough():
        elapsed = time.monotonic() - started
        if timeout is not None and elapsed >= timeout:
            break
        arrived = hosts.receive([message_id for message_id in ids if message_id not in result.seconds])
        for reply in arrived:
            result.seconds[reply.metadata.reply_to_message_id] = time.monotonic() - started
            on_reply(reply)
        if not arrived:  # our own workers have waited already
            time.sleep(max(0.0, PAUSE - (time.monotonic() - started - elapsed)))
    result.unanswered = [message_id for message_id in ids if message_id not in result.seconds]
    return result
