"""Workers in this process: a `Pool` whose every message is handled when its answer is asked for."""

from collections.abc import Callable, Collection

from flwr.app import Message

from asr_fed.engines.local_pool import OpenWorker
from asr_fed.engines.workers import Answer, ClientDone, Event, Ready, WorkerLost


class WorkerDies(Exception):
    """Raised by a message handler that is to end its worker."""


class InlinePool:
    """Takes the place of LocalPool where a test has to see what workers do, or many of them die.

    Args:
        on_message, on_client: told when a worker begins a message, and of each client that it has done.
    """

    def __init__(
        self,
        open_worker: OpenWorker,
        threads: int = 1,
        *,
        on_message: Callable[[], None] = lambda: None,
        on_client: Callable[[str], None] = lambda client: None,
    ) -> None:
        self._open_worker, self._on_message, self._on_client = open_worker, on_message, on_client
        self._handlers: dict[int, Callable[[Message], Message]] = {}
        self._events: dict[int, list[Event]] = {}
        self._waiting: dict[int, Message] = {}

    def start(self, node: int) -> None:
        events: list[Event] = [Ready()]

        def done(client: str, seconds: float) -> None:
            self._on_client(client)
            events.append(ClientDone(client, seconds))

        self._events[node] = events
        self._handlers[node] = self._open_worker(node - 1, done, lambda: False)

    def send(self, node: int, message: Message) -> None:
        self._waiting[node] = message

    def receive(self, nodes: Collection[int], timeout: float | None) -> list[tuple[int, Event]]:
        found: list[tuple[int, Event]] = []
        for node in nodes:
            if (message := self._waiting.pop(node, None)) is not None:
                self._on_message()
                try:
                    last: Event = Answer(self._handlers[node](message))
                except WorkerDies:
                    last = WorkerLost(f"worker {node} died")
                found += [(node, event) for event in (*self._events[node], last)]
                self._events[node].clear()
        return found

    def close(self) -> None:
        self._handlers.clear()
