"""Malformed messages by the ten thousand, over the wire as server and nodes read it, in both directions.

    python benchmarks/fuzz.py [--objects 50000] [--seed 1]

Each message is a good one of which bytes were changed at random: those of its objects, their kinds and children, JSON
and chunk lists; the list of its objects; half of them have had other names, types or values of records before. A link
holds it as a SuperLink or SuperNode would, and it is taken from there by the server's `CarefulGrid.pull_messages`, or a
node's `SuperNodeTasks.next`, and then read. Whatever comes of it has to be a good message or a refusal. Any other
exception ends the command with exit status 1 and the change that led to it.

Only refused messages whose bytes were changed count towards `--objects`. A quarter has other records and whole bytes,
and does not count.
"""

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import context_to_proto, message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskResponse, PullAppMessagesResponse, PullTaskInputResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from asr_fed.aggregation.update import add_client, empty
from asr_fed.engines.deployment.supernode_tasks import SuperNodeTasks
from asr_fed.wire.ask import told_by
from asr_fed.wire.careful_grid import CarefulGrid
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.inflate import LARGEST_RECORDS, MOST_OBJECTS
from asr_fed.wire.joining import query_message, read_query, read_report, report_message
from asr_fed.wire.messages import TOTALS, ClientSize, Gained, Order, Refused, Report, SharedConfig, Timing
from asr_fed.wire.records import readable
from asr_fed.wire.rounds import (
    gains_message,
    order_arrays,
    order_message,
    read_gains,
    read_order,
    read_reply,
    reply_message,
    reply_ticket,
)

CLIENTS, LENGTH, LARGEST = ("clinic", "school"), 7, 1 << 20
RUN, NODE, ASKED = 1, 3, "asked"
BOMB = bytes(LARGEST + LARGEST_RECORDS + 1)  # more than any message may have
Read = Callable[[Message], object]
Objects = dict[str, bytes]


@dataclass(frozen=True)
class Good:
    """A message that travels, and who reads it: a node, or else the server."""

    name: str
    message: Message
    read: Read
    to_node: bool = False

    @cached_property
    def objects(self) -> Objects:
        return deflated(self.message)


def deflated(message: Message) -> Objects:
    return {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def good_messages() -> list[Good]:
    """What travels in both directions."""
    identify_process(RUN, 0)
    weights = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    order = Order(3, 0.1, CLIENTS, weights, {"control": np.ones(2, np.float32)}, 2.5, "t", "s")
    sent = order_message(NODE, order, order_arrays(order))
    query = query_message(NODE, SharedConfig("seed: 1\n", b"tokens"))
    for asked in (sent, query):
        set_message_id(asked, ASKED)
    update = empty(LENGTH, {"control": 2})
    for _ in CLIENTS:
        add_client(update, weights, 1.5, dict.fromkeys(TOTALS[2:], 4), {"control": np.ones(2, np.float32)})
    sizes = {name: ClientSize(9, 30.0, 3.0) for name in CLIENTS}
    gains = {name: Gained(9, 3, 2) for name in CLIENTS}

    def reply(message: Message) -> object:
        return reply_ticket(message), read_reply(message, CLIENTS, LENGTH, {"control": 2})

    identify_process(RUN, NODE)
    return [
        Good("order", sent, lambda message: read_order(message, {"control": 2}), to_node=True),
        Good("query", query, read_query, to_node=True),
        Good("reply", reply_message(sent, update, {}, Timing(1.0)), reply),
        Good("gains", gains_message(sent, gains, {}, Timing(1.0)), lambda message: read_gains(message, CLIENTS)),
        Good("report", report_message(query, Report("clinic", True, "s", sizes)), read_report),
        Good("error", Message(Error(7, "not in order \x1b[2J" * 50), reply_to=sent), reply),
    ]


@dataclass
class Link:
    """A SuperLink, or a node's SuperNode, that holds one message: how its clients of Flower see it."""

    proto: Any
    tree: ObjectTree
    objects: Objects
    unavailable: set[str] = field(default_factory=set)  # at the first try
    given: bool = False

    def AcquireTask(self, request: Any) -> AcquireTaskResponse:
        return AcquireTaskResponse(token="token")

    def PullTaskInput(self, request: Any) -> PullTaskInputResponse:
        context = Context(RUN, NODE, {}, RecordDict(), {}, series_id=1)
        return PullTaskInputResponse(context=context_to_proto(context))

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        if self.given:
            return PullAppMessagesResponse()
        self.given = True
        return PullAppMessagesResponse(messages_list=[self.proto], message_object_trees=[self.tree])

    def PullObject(self, request: Any) -> PullObjectResponse:
        here = request.object_id not in self.unavailable
        self.unavailable.discard(request.object_id)
        found = request.object_id in self.objects
        content = self.objects.get(request.object_id, b"")
        return PullObjectResponse(object_found=found, object_available=here, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:
        pass


class Tasks(SuperNodeTasks):
    """Those of a SuperNode that is this link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        super().__init__("127.0.0.1:1", b"", LARGEST)

    def _connect(self, authentication: Any, component: str) -> Any:
        return self.link


def at_server(link: Link) -> Message:
    """Raises Refused where it is the sender's error."""
    theirs = HttpGrid(token="x")
    theirs.set_run(Run.create_empty(RUN))
    theirs._client = link  # type: ignore[assignment]  # noqa: SLF001  what a SuperLink would hold
    grid = CarefulGrid(theirs, LARGEST)
    pulled = grid.pull_messages([ASKED]) or grid.pull_messages([ASKED])
    [message] = pulled
    return message


def at_node(link: Link) -> Message:
    """Raises Refused where it cannot be delivered whole."""
    try:
        task = Tasks(link).next()
    except ConnectionError as error:  # the node asks for the next one
        raise Refused(str(error)) from error
    assert task is not None
    return task.message


def values(rng: random.Random) -> Any:
    """A value that a record may hold, of any kind."""
    numbers = [0, -1, 1 << 62, -(1 << 63), 0.0, -1.5, float("nan"), float("inf")]
    scalar: Any = rng.choice([*numbers, "", "abc", "9" * 5000, "=A1", "\x1b[2J", b"\xff"])
    return scalar if rng.random() < 0.7 else [scalar] * rng.choice([0, 1, 2, 50])


def change_records(message: Message, rng: random.Random) -> Message:
    """Another content: a record gone, renamed, of another kind, or with another value."""
    content: dict[str, Any] = dict(message.content.items())
    for _ in range(rng.randint(1, 3)):
        names = list(content)
        name = rng.choice(names) if names else "arrays"
        match rng.randrange(6):
            case 0:
                content.pop(name, None)
            case 1:
                content[rng.choice(["arrays", "config", "node", "more", ""])] = content.get(name, ConfigRecord())
            case 2:
                content[name] = rng.choice([ConfigRecord(), MetricRecord(), ArrayRecord()])
            case 3:
                content[name] = ArrayRecord({rng.choice(["delta", "weights", "x"]): any_array(rng)})
            case _:
                record: Any = content.get(name)
                inner: Any = dict(record or {})
                inner[rng.choice([*inner, "extra"])] = values(rng)
                try:
                    content[name] = type(record)(inner)
                except (TypeError, ValueError):  # Flower does not make it, and so cannot have received it
                    content.pop(name, None)
    return Message(RecordDict(content), message.metadata.dst_node_id or NODE, "train")


def any_array(rng: random.Random) -> Array:
    kind = rng.choice([np.float32, np.float64, np.int64, np.int8])
    array = Array(np.zeros(rng.choice([0, 1, LENGTH, 100]), kind))
    data = bytearray(array.data)
    if data and rng.random() < 0.5:
        data[rng.randrange(len(data))] = rng.randrange(256)
    shape = tuple(rng.choice([0, 1, 7, 1 << 40]) for _ in range(rng.randrange(3)))
    return Array(array.dtype, shape, rng.choice(["numpy.ndarray", "pickle"]), bytes(data))


def change_bytes(objects: Objects, root: str, rng: random.Random) -> Objects:
    """The same objects with some bytes, kinds, children or JSON changed, or one gone."""
    objects = dict(objects)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(objects) or [root])
        head, _, body = objects.get(name, b"").partition(b"\0")
        match rng.randrange(6):
            case 0:
                place = bytearray(objects.get(name, b"\0"))
                place[rng.randrange(len(place))] ^= rng.randrange(1, 256)
                objects[name] = bytes(place)
            case 1:
                kind = rng.choice([b"Message", b"Array", b"MetricRecord", b"ArrayChunk", b"Callable", b""])
                objects[name] = kind + b" " + head.partition(b" ")[2] + b"\0" + body
            case 2:
                children = rng.sample(list(objects), rng.randrange(min(4, len(objects) + 1)))
                parts = head.split(b" ")
                objects[name] = b" ".join([parts[0], ",".join(children).encode(), *parts[2:]]) + b"\0" + body
            case 3:
                body = rng.choice([b"\xff\xff\xff", b"", b"[" * 3000, b'{"a": ' + b"9" * 5000 + b"}", b"null", b"[]"])
                objects[name] = head + b"\0" + body
            case 4:
                described: dict[str, Any] = {"dtype": "x", "shape": [1], "stype": "numpy.ndarray"}
                chunks: list[Any] = [[0] * 5000, [9], [-1], "x", None, [[0]], {}]
                described["arraychunk_ids"] = rng.choice(chunks)
                objects[name] = head + b"\0" + json.dumps(described).encode()
            case _:
                objects.pop(name, None)
    if root in objects and rng.random() < 0.3:
        objects[get_object_id(objects[root])] = objects[root]
    if objects and rng.random() < 0.01:
        objects[rng.choice(list(objects))] = BOMB
    return objects


def change_tree(root: str, objects: Objects, rng: random.Random) -> ObjectTree:
    """The list of a message's objects; one in ten says something else than what is there."""
    names = [name for name in objects if name != root]
    if rng.random() < 0.1:
        more = [["nobody"], [""], ["x" * 10_000], names * 2, [root], [f"n{each}" for each in range(MOST_OBJECTS)]]
        names = rng.sample(names, rng.randint(0, len(names))) + rng.choice(more)
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in names])
    if rng.random() < 0.02:
        for _ in range(90):  # a parser of protobuf takes no more than a hundred
            tree = ObjectTree(object_id=root, children=[tree])
    return tree


def link_of(good: Good, rng: random.Random, whole: bool) -> Link:
    """A changed message on its way; `whole`: its records are changed, and its bytes are those of them."""
    message, objects = good.message, good.objects
    if good.message.has_content() and (whole or rng.random() < 0.5):
        message = change_records(good.message, rng)
        objects = deflated(message)
    root = message.object_id
    if not whole:
        objects = change_bytes(objects, root, rng)
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in objects if name != root])
    proto = message_to_proto(good.message)
    if rng.random() < 0.2:
        proto.metadata.message_type = rng.choice(["", "train.x", "x" * 5000, "\x1b[2J", "query"])
        proto.metadata.group_id = rng.choice(["", "9" * 5000, "-1"])
        proto.metadata.ttl = rng.choice([0.0, -1.0, float("nan"), 1e300])
    slow = set() if good.to_node or rng.random() < 0.9 or not objects else {rng.choice(list(objects))}
    return Link(proto, tree if whole else change_tree(root, objects, rng), objects, slow)


def taken(good: Good, link: Link) -> bool:
    """Whether it was read as a good message; else it was refused. Anything else is raised."""
    try:
        message = at_node(link) if good.to_node else at_server(link)
        if message.has_error():
            readable(told_by(message))
            return False
        good.read(message)
    except Refused:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng, goods, started = random.Random(chosen.seed), good_messages(), time.perf_counter()
    refused, others, number = Counter[str](), Counter[str](), 0
    for good in goods:
        assert taken(good, Link(message_to_proto(good.message), tree_of(good), good.objects)) == (good.name != "error")
    while refused.total() < chosen.objects:
        good, whole = goods[number % len(goods)], rng.random() < 0.25
        number += 1
        try:
            identify_process(RUN, NODE if good.to_node else 0)
            if taken(good, link_of(good, rng, whole)):
                others[f"{good.name} still good"] += 1
            else:
                (others if whole else refused)[f"{good.name}{' of other records' * whole} refused"] += 1
        except Exception:
            traceback.print_exc()
            print(f"message {number} (seed {chosen.seed}): {good.name}")
            return 1
    seconds = time.perf_counter() - started
    print(", ".join(f"{count} {name}" for name, count in sorted({**refused, **others}.items())))
    print(
        f"{number} messages in {seconds:.0f} s, seed {chosen.seed}: {refused.total()} with changed bytes were refused, "
        f"{others.total()} others were refused or still good, and nothing else happened."
    )
    return 0


def tree_of(good: Good) -> ObjectTree:
    root = good.message.object_id
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in good.objects if name != root])


if __name__ == "__main__":
    sys.exit(main())
