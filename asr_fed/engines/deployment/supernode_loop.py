"""Two changes to the loop of Flower 1.41's SuperNode, made in its process before it starts.

A SuperNode takes a message, waits for a reply, sends all replies that are there, and looks for the next message. A
reply that comes at another time (for example to a message of a run that has ended) breaks this order for good: from
then on each reply waits until the next message comes, and a server that waits for the reply sends none. Here replies
are also sent when there is no message to take. And a SuperNode without a message sleeps for `REST` seconds instead of
three. The first time that it looks for a message, which is when the server has let it in, it prints `CONNECTED`.

The names used are private; tests/engines/deployment/test_supernode_tasks.py checks that Flower still has them.
"""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.supernode import start_client_internal as loop

REST = 0.5
CONNECTED = "The SuperLink has let this node in."


def mend() -> None:
    """Change the loop of the SuperNode that this process will run."""
    take, send_replies = loop._pull_and_store_message, loop._push_messages
    line: dict[str, Callable[..., Any]] = {}
    told: list[bool] = []

    def send_and_remember(state: Any, **arguments: Any) -> None:
        line.update(arguments)
        send_replies(state, **arguments)

    def take_or_send(**arguments: Any) -> int | None:
        if not told:
            print(CONNECTED, flush=True)
            told.append(True)
        run = take(**arguments)
        if run is None and line:
            replies = arguments["state"].get_messages_legacy(is_reply=True)
            if replies:
                send_replies(_Holding(arguments["state"], replies), **line)  # type: ignore[arg-type]
        return run

    changed: Any = loop
    changed._pull_and_store_message, changed._push_messages = take_or_send, send_and_remember
    changed.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, REST)))


class _Holding:
    """A node's state that returns replies which have already been taken from it."""

    def __init__(self, state: Any, replies: Sequence[Any]) -> None:
        self._state, self._replies = state, replies

    def get_messages_legacy(self, **wanted: Any) -> Sequence[Any]:
        return self._replies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
