"""Workers as the nodes of a federation, whether they are processes on this machine or actors of a Ray cluster.

Each worker is one node. It keeps model and features in memory for the whole run, and handles one message per round. A
`Pool` starts, feeds and ends workers. What to do about a worker that dies or hangs, or whose answer is invalid, is
decided here, once for all pools.
"""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Error, Message, MessageType

from asr_fed.aggregation.update import empty
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.rounds import add_failures, order_clients, reply_message, without_clients

RUN, SERVER = 1, 0  # ids in Flower's sense; workers are nodes 1, 2, ...
WORKER_ERROR, WORKER_LOST = 1, 2
STRIKES = 2  # a client is left out after this many workers died while training it
STARTS = 2  # a worker is given up after it died this often before it was ready
REPLACEMENTS = 6  # of a worker for one message, at most
PULSE = 0.1  # seconds that `receive` waits for a reply

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """The worker has loaded model and features."""


@dataclass(frozen=True)
class ClientDone:
    """The worker has trained a client in `seconds`."""

    client: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    message: Message


@dataclass(frozen=True)
class WorkerError:
    """The worker could not start, or could not handle its message."""

    reason: str


@dataclass(frozen=True)
class WorkerLost:
    """The worker is dead."""

    reason: str


Event = Ready | ClientDone | Answer | WorkerError | WorkerLost


class Pool(Protocol):
    def start(self, node: int) -> None:
        """Start worker `node`; if there is one already, even a stuck one, end it first."""
        ...

    def send(self, node: int, message: Message) -> None:
        """Deliver a message; it supersedes the one that the worker is working on. A dead worker is no error here."""
        ...

    def receive(self, nodes: Collection[int], timeout: float | None) -> list[tuple[int, Event]]:
        """Events that have arrived from these workers. Waits for the first one, for at most `timeout` seconds.

        There are no events about superseded messages.
        """
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass
class _Pending:
    """A message that a worker has not answered; `alive` is when the worker last reported progress."""

    message: Message
    alive: float
    ready: bool
    patience: float = 1.0
    starts: int = 1
    replacements: int = 0
    done: list[str] = field(default_factory=list)  # by the present worker
    strikes: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)  # clients left out, and why


class Workers:
    """Workers 1..n as the nodes of a federation (see `Hosts`). A context manager: leaving it ends the workers.

    A worker that dies is replaced and its clients are trained again. A client is left out, and named as failed, when a
    second worker dies while training it. With `client_timeout`, a worker that takes longer for one client counts as
    stuck: it is replaced, and the client is left out. A worker that cannot be started again is given up.

    Args:
        pool: keeps the workers.
        workers: how many.
        on_client: called with the id of each client that has been trained or personalised, once per message.
        client_timeout: seconds.
    """

    def __init__(
        self,
        pool: Pool,
        workers: int,
        on_client: Callable[[str], None] = lambda client: None,
        client_timeout: float | None = None,
    ) -> None:
        identify_process(run_id=RUN, node_id=SERVER)
        self._pool, self._on_client, self._client_timeout = pool, on_client, client_timeout
        self._ids = (str(number) for number in itertools.count(1))
        self._replies: dict[str, Message] = {}
        self._pending: dict[int, _Pending] = {}
        self._told: set[tuple[str, str]] = set()  # (message, client) for which `on_client` has been called
        self._trained: list[tuple[int, str, float]] = []
        self._ready: set[int] = set()
        self._nodes = list(range(1, workers + 1))
        for node in self._nodes:
            self._pool.start(node)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()

    @property
    def expected(self) -> int:
        return len(self._nodes)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def send(self, messages: Sequence[Message], patience: float = 1.0) -> list[str]:
        """Deliver each message to its worker; it supersedes an older one, which then gets no answer.

        A worker may take `patience` times `client_timeout` for a client of these messages.
        """
        sent = []
        for message in messages:
            node = message.metadata.dst_node_id
            message_id = next(self._ids)
            set_message_id(message, message_id)
            self._pending[node] = _Pending(message, time.monotonic(), node in self._ready, patience)
            self._pool.send(node, message)
            sent.append(message_id)
        return sent

    def receive(self, message_ids: Collection[str]) -> list[Message]:
        """Replies that have arrived, each once; waits a moment if there are none yet."""
        wanted, deadline = set(message_ids), time.monotonic() + PULSE
        while not self._replies.keys() & wanted and (remaining := deadline - time.monotonic()) > 0:
            self._receive(remaining)
        return [self._replies.pop(message_id) for message_id in sorted(self._replies.keys() & wanted, key=int)]

    def give_up(self, message_ids: Collection[str]) -> int:
        """Replace the workers that have not answered these messages: they may be stuck."""
        for node, pending in list(self._pending.items()):
            if pending.message.metadata.message_id in message_ids:
                self._start(node)
                self._pending.pop(node)
        return 0

    def client_seconds(self) -> list[tuple[int, str, float]]:
        """Worker, client and seconds of each training since the last call."""
        trained, self._trained = self._trained, []
        return trained

    def _start(self, node: int) -> None:
        self._ready.discard(node)
        self._pool.start(node)

    def _receive(self, timeout: float) -> None:
        for node, event in self._pool.receive(list(self._pending), timeout):
            pending = self._pending.get(node)
            if pending is None:
                continue
            pending.alive = time.monotonic()
            match event:
                case Ready():
                    pending.ready = True
                    self._ready.add(node)
                case ClientDone(client, seconds):
                    pending.done.append(client)
                    self._trained.append((node, client, seconds))
                    message_id = pending.message.metadata.message_id
                    if (message_id, client) not in self._told:  # trained again by the worker's successor
                        self._told.add((message_id, client))
                        self._on_client(client)
                case Answer(message):
                    if message.metadata.reply_to_message_id == pending.message.metadata.message_id:
                        self._answer(node, message)
                case WorkerError(reason):
                    self._fail(node, WORKER_ERROR, reason)
                case WorkerLost(reason):
                    self._lost(node, reason, STRIKES)
        if self._client_timeout is not None:
            for node, pending in list(self._pending.items()):
                limit = self._client_timeout * pending.patience
                if pending.ready and time.monotonic() - pending.alive > limit:
                    self._lost(node, f"no end within {limit:g} s", 1)

    def _answer(self, node: int, message: Message) -> None:
        pending = self._pending.pop(node)
        message_id = pending.message.metadata.message_id
        self._told = {told for told in self._told if told[0] != message_id}
        if pending.lost:
            add_failures(message, pending.lost)
        self._replies[message_id] = message

    def _lost(self, node: int, reason: str, strikes: int) -> None:
        """Replace a worker and handle its message again, without clients during which workers died `strikes` times."""
        pending = self._pending[node]
        message_id, was_ready = pending.message.metadata.message_id, pending.ready
        if pending.message.metadata.message_type == MessageType.QUERY or not was_ready:
            pending.starts += 1
            if pending.starts > STARTS:
                self._fail(node, WORKER_LOST, reason)
                self._nodes.remove(node)  # others will train its clients
                log.warning("worker %d is given up: %s", node, reason)
                return
            self._start(node)
        else:
            self._start(node)
            suspect = next((client for client in order_clients(pending.message) if client not in pending.done), None)
            if suspect is not None:
                pending.strikes[suspect] = pending.strikes.get(suspect, 0) + 1
                if pending.strikes[suspect] >= strikes:
                    pending.lost[suspect] = f"its worker was lost over it: {reason}"
        pending.replacements += 1
        if pending.replacements > REPLACEMENTS:
            self._fail(node, WORKER_LOST, f"{reason}, after {REPLACEMENTS} replacements")
            return
        if pending.lost:
            smaller = without_clients(pending.message, set(pending.lost))
            set_message_id(smaller, message_id)
            if not order_clients(smaller):
                self._answer(node, reply_message(smaller, empty(0), pending.lost))
                return
            pending.message = smaller
        pending.done, pending.ready, pending.alive = [], False, time.monotonic()
        self._pool.send(node, pending.message)

    def _fail(self, node: int, code: int, reason: str) -> None:
        pending = self._pending.pop(node)
        message_id = pending.message.metadata.message_id
        self._replies[message_id] = Message(Error(code, reason), reply_to=pending.message)
