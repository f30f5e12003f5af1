"""A reply that cannot be read, or never comes whole, is its sender's failure alone: the others' replies are there.

Flower's own grid over a link that holds what a SuperLink would: announced replies, and objects by id.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from asr_fed.wire.careful_grid import GROWTH, CarefulGrid
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.hosts import RemoteNodes
from tests.wire.forged import Objects, add, around, objects_of, small

RUN = 1


class Link:
    """A SuperLink as the grid's client calls it."""

    def __init__(self) -> None:
        self.announced: dict[str, tuple[Any, ObjectTree]] = {}  # by the message that is replied to
        self.objects: dict[str, bytes | None] = {}  # None: still on its way
        self.confirmed: list[str] = []

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        ready = [self.announced.pop(asked) for asked in request.message_ids if asked in self.announced]
        return PullAppMessagesResponse(
            messages_list=[proto for proto, _ in ready], message_object_trees=[tree for _, tree in ready]
        )

    def PullObject(self, request: Any) -> PullObjectResponse:
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=request.object_id in self.objects, object_available=content is not None, object_content=content
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)

    def announce(self, reply: Message, tree: ObjectTree, objects: Objects) -> None:
        set_message_id(reply, tree.object_id)
        self.announced[reply.metadata.reply_to_message_id] = message_to_proto(reply), tree
        self.objects |= objects


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def grid(link: Link) -> CarefulGrid:
    theirs = HttpGrid(token="x")
    theirs.set_run(Run.create_empty(RUN))
    theirs._client = link  # type: ignore[assignment]
    return CarefulGrid(theirs)


def order(node: int) -> Message:
    identify_process(RUN, 0)
    made = Message(small(ConfigRecord({"round": 1})).content, node, "train")
    set_message_id(made, f"order {node}")
    return made


def reply(node: int) -> Message:
    asked = order(node)
    identify_process(RUN, node)
    return Message(small(ArrayRecord({"delta": Array(np.arange(node))})).content, reply_to=asked)


def answer(link: Link, node: int) -> None:
    made = reply(node)
    link.announce(made, get_object_tree(made), objects_of(made))


def forged(link: Link, node: int) -> None:
    made, objects = reply(node), Objects()
    record = add(objects, "MetricRecord", b"\xff\xff\xff")
    root = around(objects, made, {"weights": record})
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=each) for each in objects if each != root])
    link.announce(made, tree, objects)


def senders(messages: Sequence[Message]) -> dict[int, bool]:
    """Whether each sent an error."""
    return {each.metadata.src_node_id: each.has_error() for each in messages}


ALL = [f"order {node}" for node in (4, 5, 6)]


def test_one_reply_that_cannot_be_read_is_an_error_of_its_node(link: Link, grid: CarefulGrid) -> None:
    answer(link, 4)
    forged(link, 5)
    answer(link, 6)
    pulled = grid.pull_messages(ALL)
    assert senders(pulled) == {4: False, 5: True, 6: False}
    [bad] = [each for each in pulled if each.has_error()]
    assert bad.metadata.reply_to_message_id == "order 5"
    assert "cannot be read" in bad.error.reason
    assert len(link.confirmed) == 3, "what was refused would stay at the SuperLink"
    np.testing.assert_array_equal(pulled[0].content["record"]["delta"].numpy(), np.arange(4))
    assert grid.pull_messages(ALL) == []


def test_one_whose_objects_do_not_come_does_not_hold_up_the_others(link: Link, grid: CarefulGrid) -> None:
    answer(link, 5)
    last, content = list(link.objects.items())[-1]
    link.objects[last] = None
    answer(link, 4)
    assert senders(grid.pull_messages(ALL)) == {4: False}
    assert senders(grid.pull_messages(ALL)) == {}
    link.objects[last] = content
    assert senders(grid.pull_messages(ALL)) == {5: False}


def test_one_whose_objects_are_gone_is_an_error(link: Link, grid: CarefulGrid) -> None:
    answer(link, 5)
    link.objects.clear()
    [pulled] = grid.pull_messages(ALL)
    assert pulled.error.reason == "its answer did not arrive whole"


def test_whom_a_reply_is_from_is_what_the_superlink_saw(link: Link, grid: CarefulGrid) -> None:
    """Inside, node 5 gives itself out as node 4, which has not answered yet."""
    pretended, honest = reply(4), reply(5)
    link.announce(honest, get_object_tree(pretended), objects_of(pretended))
    [pulled] = grid.pull_messages(ALL)
    assert (pulled.metadata.src_node_id, pulled.metadata.reply_to_message_id) == (5, "order 5")


def test_a_type_that_flower_does_not_know_is_refused(link: Link, grid: CarefulGrid) -> None:
    """Its own metadata would raise, for a message that is read and for the error in its place alike."""
    answer(link, 4)
    made, objects = reply(5), Objects()
    link.announce(made, ObjectTree(object_id=around(objects, made, {})), objects)
    for asked in ("order 4", "order 5"):
        link.announced[asked][0].metadata.message_type = "train.\x1b[2J"
    answer(link, 6)
    pulled = grid.pull_messages(ALL)
    assert senders(pulled) == {4: True, 5: True, 6: False}
    assert "a message of the type" in pulled[0].error.reason and pulled[0].metadata.reply_to_message_id == "order 4"


def test_an_error_of_a_node_arrives_as_one(link: Link, grid: CarefulGrid) -> None:
    asked = order(4)
    identify_process(RUN, 4)
    made = Message(Error(7, "not in order"), reply_to=asked)
    link.announce(made, get_object_tree(made), objects_of(made))
    [pulled] = grid.pull_messages(ALL)
    assert (pulled.error.code, pulled.error.reason) == (7, "not in order")


def test_a_reply_may_be_as_large_as_an_order_lets_expect(
    link: Link, grid: CarefulGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify_process(RUN, 0)
    sent = Message(small(ArrayRecord({"weights": Array(np.zeros(1 << 20, np.float32))})).content, 4, "train")
    monkeypatch.setattr(HttpGrid, "push_messages", lambda self, messages: ["order 4"])
    assert RemoteNodes(grid).send([sent]) == ["order 4"]
    assert GROWTH * 4 << 20 <= grid.largest < GROWTH * 5 << 20
    made = Message(small(ArrayRecord({"delta": Array(np.zeros(grid.largest // 8 + 1))})).content, reply_to=order(4))
    link.announce(made, get_object_tree(made), objects_of(made))
    [pulled] = grid.pull_messages(ALL)
    assert "arrays of more than" in pulled.error.reason
