"""A ServerApp's connection to its SuperLink, on which one node's message cannot block or break those of others.

Flower's `pull_messages` returns all replies or none. A reply that cannot be read ends the run, also after a resume. A
reply whose objects were announced but never sent blocks all others. Here each message is fetched by itself, as far as
it has arrived. Any problem with it becomes an error of the node that sent it.

The names of Flower 1.41 used here are not public; tests/wire/test_careful_grid.py holds Flower to them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.app.message import make_message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from asr_fed.wire.inflate import counted, inflate, object_ids, recorded, unreadable
from asr_fed.wire.messages import Refused
from asr_fed.wire.records import record_bytes

# A reply has up to 8 bytes a number where its order has 2 or 4, and may have a vector more.
GROWTH, LEAST = 9, 1 << 20


@dataclass
class _Arriving:
    """A reply that has arrived in part; the objects `waits_for` are missing."""

    proto: ProtoMessage
    tree: ObjectTree
    waits_for: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


class CarefulGrid:
    """What `asr_fed.wire.hosts.RemoteNodes` needs of a grid. `largest`: bytes that the arrays of a reply may have."""

    def __init__(self, grid: Grid, largest: int = LEAST) -> None:
        if not isinstance(grid, HttpGrid):
            raise TypeError(f"{type(grid).__name__} is no line to a SuperLink")
        self._grid = grid
        self.largest = largest
        self._arriving: dict[str, _Arriving] = {}  # by the message that they reply to

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Sequence[Message]) -> Iterable[str]:
        self.largest = max([self.largest, *(GROWTH * record_bytes(message) for message in messages)])
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Collection[str]) -> list[Message]:
        """The replies to these messages that have become complete since the last call."""
        if new := set(message_ids) - self._arriving.keys():  # a SuperLink announces a reply once
            pulled = self._link.PullMessages(PullAppMessagesRequest(message_ids=new))
            for proto, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
                self._arriving[proto.metadata.reply_to_message_id] = _Arriving(proto, tree, [])
        here = {asked: self._fetch(self._arriving[asked]) for asked in message_ids if asked in self._arriving}
        replies = {asked: reply for asked, reply in here.items() if reply is not None}
        for asked in replies:
            self._confirm(self._arriving.pop(asked))
        return list(replies.values())

    @property
    def _link(self) -> RuntimeHttpClient:
        return self._grid._runtime_client  # noqa: SLF001  there is no public way to pull a message for itself

    def _fetch(self, arriving: _Arriving) -> Message | None:
        """The message; None if parts of it are still missing."""
        try:
            metadata = recorded(arriving.proto)
            if not arriving.contents and not arriving.waits_for:
                arriving.waits_for = object_ids(arriving.tree)
            run = arriving.proto.metadata.run_id
            pull = make_pull_object_fn_protobuf(self._link.PullObject, self._grid.node, run)
            fetch = counted(pull, self.largest - sum(map(len, arriving.contents.values())))
            while arriving.waits_for:
                arriving.contents[arriving.waits_for[-1]] = fetch(arriving.waits_for[-1])
                arriving.waits_for.pop()
            message = inflate(arriving.tree.object_id, arriving.contents, self.largest)
        except ObjectUnavailableError:
            return None
        except ObjectPullError:
            return unreadable(arriving.proto, "its answer did not arrive whole")
        except Refused as refused:
            return unreadable(arriving.proto, f"refused: {refused}")
        # Sender and reply-to are those that the SuperLink has recorded, not those written in the message.
        if message.has_error():
            return make_message(metadata, error=message.error)
        return make_message(metadata, content=message.content)

    def _confirm(self, arrived: _Arriving) -> None:
        meta = arrived.proto.metadata
        self._link.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=meta.run_id, message_object_id=arrived.tree.object_id
            )
        )
