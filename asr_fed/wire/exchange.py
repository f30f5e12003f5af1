"""Messages out, replies in, over any Flower grid, for no longer than is allowed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

PAUSE = 0.1  # seconds between two looks at a grid that does not wait itself


@dataclass
class Exchange:
    """What came of some messages.

    replies: in the order of the messages.
    seconds: from the push to each reply, by message id.
    unanswered: ids of the messages without a reply.
    """

    replies: list[Message] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout: float | None = None,
    enough: Callable[[list[Message]], bool] = lambda replies: False,
    on_sent: Callable[[dict[str, Message]], None] = lambda sent: None,
) -> Exchange:
    """Push the messages and gather the replies until all are there, there are `enough`, or time is up.

    `on_sent` is given the messages by the ids that the grid gave them.
    """
    messages = list(messages)
    started = time.monotonic()
    ids = list(grid.push_messages(messages)) if messages else []
    if len(ids) != len(messages) or None in ids:
        raise ConnectionError("the grid did not take all messages: they may be larger than it allows")
    on_sent(dict(zip(ids, messages, strict=True)))
    replies: dict[str, Message] = {}
    result = Exchange()
    while len(replies) < len(ids) and not (replies and enough(list(replies.values()))):
        elapsed = time.monotonic() - started
        if timeout is not None and elapsed >= timeout:
            break
        arrived = list(grid.pull_messages([message_id for message_id in ids if message_id not in replies]))
        for reply in arrived:
            replies[reply.metadata.reply_to_message_id] = reply
            result.seconds[reply.metadata.reply_to_message_id] = time.monotonic() - started
        if not arrived:  # a grid of our own has waited already
            time.sleep(max(0.0, PAUSE - (time.monotonic() - started - elapsed)))
    result.replies = [replies[message_id] for message_id in ids if message_id in replies]
    result.unanswered = [message_id for message_id in ids if message_id not in replies]
    return result
