"""Two things that we change in the loop of Flower 1.41's SuperNode, in its own process and before it starts.

A SuperNode takes a message, waits until some reply is there, sends all replies that are, and looks for the next
message. A reply that comes at another time, such as that to a message of a run which has ended meanwhile, shifts this
for good: each reply then waits until the next message comes, and a server that waits for it never sends one. Here
replies are sent whenever there is no message to take. And a SuperNode without a message rests for `REST` seconds, not
for three.

The names used are not public; tests/engines/deployment/test_supernode_tasks.py holds Flower to them.
"""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.supernode import start_client_internal as loop

REST = 0.5


def mend() -> None:
    """Change the loop of the SuperNode that this process is going to run."""
    take, send_replies = loop._pull_and_store_message, loop._push_messages
    line: dict[str, Callable[..., Any]] = {}

    def send_and_remember(state: Any, **arguments: Any) -> None:
        line.update(arguments)
        send_replies(state, **arguments)

    def take_or_send(**arguments: Any) -> int | None:
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
    """A node's state that gives out replies which have been taken from it already."""

    def __init__(self, state: Any, replies: Sequence[Any]) -> None:
        self._state, self._replies = state, replies

    def get_messages_legacy(self, **wanted: Any) -> Sequence[Any]:
        return self._replies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
