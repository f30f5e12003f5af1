"""The contract with the names of Flower that supernode_tasks.py and supernode_loop.py lean on, over a SuperNode's API.

A SuperNode without a server: what would come from one is put into its state.
"""

import ast
import inspect
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal as loop
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from asr_fed.engines.deployment import supernode_tasks
from asr_fed.engines.deployment.resident import REFUSED, Resident
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.deployment.supernode_loop import REST, mend
from asr_fed.engines.deployment.supernode_tasks import SuperNodeTasks
from asr_fed.wire.flower_private import identify_process, set_message_id
from tests.engines.deployment.machine import free_port
from tests.waiting import PATIENCE, wait_until
from tests.wire.forged import Objects, add, around

SECRET, NODE, RUN, SERIES = b"s" * 32, 9, 5, 3
SHIPPED = b"code that comes with a run: not even an archive"


@dataclass
class SuperNode:
    address: str
    state: NodeState

    def announce(self) -> None:
        """A SuperNode makes the task before it has the message."""
        assert self.state.create_task(TaskType.CLIENT_APP, RUN, sha256(SHIPPED).hexdigest()) is not None

    def receive(self, message: Message) -> None:
        """As from the server."""
        self.announce()
        _insert_message(message, self.state, self.state.object_store)

    def answers(self) -> list[Message]:
        return list(self.state.get_messages_legacy(is_reply=True))


@pytest.fixture
def supernode() -> Iterator[SuperNode]:
    factory, port = NodeStateFactory(ObjectStoreFactory()), free_port()
    state = factory.state()
    state.set_node_id(NODE)
    run = Run.create_empty(RUN)
    run.series_id, run.fab_hash = SERIES, state.store_fab(Fab(sha256(SHIPPED).hexdigest(), SHIPPED, {}))
    state.store_run(run)
    state.set_run_series_context(SERIES, Context(RUN, NODE, {}, RecordDict(), {}, series_id=SERIES))
    app = create_app(factory, SECRET)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield SuperNode(f"127.0.0.1:{port}", state)
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def order() -> Message:
    identify_process(run_id=RUN, node_id=0)
    content = RecordDict({"arrays": ArrayRecord({"state": Array(np.arange(70_000, dtype=np.float32))})})
    content["config"] = ConfigRecord({"round": 2, "clients": ["a", "b"]})
    return Message(content, NODE, MessageType.TRAIN, group_id="2")


def test_a_message_is_taken_and_answered_without_the_shipped_code(supernode: SuperNode) -> None:
    tasks = SuperNodeTasks(supernode.address, SECRET)
    assert tasks.next() is None
    sent = order()
    supernode.receive(sent)
    task = tasks.next()
    assert task is not None
    assert task.message.metadata.message_id == sent.metadata.message_id != ""
    assert (task.message.metadata.message_type, task.message.metadata.group_id) == (MessageType.TRAIN, "2")
    assert task.message.content["config"] == sent.content["config"]
    np.testing.assert_array_equal(task.message.content["arrays"]["state"].numpy(), np.arange(70_000))
    assert tasks.next() is None, "a task is given once"
    with task.signs_of_life():
        reply = Message(RecordDict({"node": ConfigRecord({"ticket": "x"})}), reply_to=task.message)
    task.answer(reply)
    [answer] = supernode.answers()
    assert answer.metadata.reply_to_message_id == sent.metadata.message_id
    assert (answer.metadata.src_node_id, answer.metadata.dst_node_id) == (NODE, 0)
    assert not answer.has_error()
    stored = supernode.state.object_store.get_object_tree(answer.metadata.message_id)
    assert stored.object_id == answer.metadata.message_id


def test_an_error_is_an_answer_too(supernode: SuperNode) -> None:
    supernode.receive(order())
    task = SuperNodeTasks(supernode.address, SECRET).next()
    assert task is not None
    task.answer(Message(Error(1, "no such experiment"), reply_to=task.message))
    [answer] = supernode.answers()
    assert answer.has_error() and answer.error.reason == "no such experiment"


def test_a_message_that_cannot_be_read_is_answered_with_a_refusal(supernode: SuperNode, tmp_path: Path) -> None:
    """And the next one is taken: what a server sends does not end a node."""
    sent, objects = order(), Objects()
    record = add(objects, "MetricRecord", b"\xff\xff\xff")
    root = around(objects, sent, {"arrays": record})
    tree = ObjectTree(object_id=next(iter(objects)))
    for object_id in list(objects)[1:]:
        tree = ObjectTree(object_id=object_id, children=[tree])
    assert tree.object_id == root
    supernode.announce()
    set_message_id(sent, root)
    supernode.state.store_message(sent)
    supernode.state.object_store.preregister(RUN, tree)
    for object_id, content in objects.items():
        supernode.state.object_store.put(object_id, content)
    tasks = SuperNodeTasks(supernode.address, SECRET)
    task = tasks.next()
    assert task is not None and task.message.has_error()
    said: list[str] = []
    reply = Resident(NodeSettings("clinic", "x:1", str(tmp_path)), said.append).answer(task.message)
    assert reply.error.code == REFUSED and "cannot be read" in said[0]
    task.answer(reply)
    [answer] = supernode.answers()
    assert answer.metadata.reply_to_message_id == root and answer.error.reason == reply.error.reason
    supernode.receive(order())
    assert tasks.next() is not None


def test_signs_of_life_reach_the_supernode(supernode: SuperNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_fed.engines.deployment.supernode_tasks.PULSE", 0.05)
    supernode.receive(order())
    task = SuperNodeTasks(supernode.address, SECRET).next()
    assert task is not None
    heard: list[int] = []
    acknowledge = supernode.state.acknowledge_task_heartbeat
    monkeypatch.setattr(
        supernode.state, "acknowledge_task_heartbeat", lambda task_id: heard.append(task_id) or acknowledge(task_id)
    )
    with task.signs_of_life():
        wait_until(lambda: len(heard) >= 2)
    assert len(set(heard)) == 1
    beats = len(heard)
    time.sleep(0.2)
    assert len(heard) == beats, "it goes on after the work is over"


def test_a_message_that_comes_a_moment_after_its_task_is_waited_for(
    supernode: SuperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the first pause."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        _insert_message(order(), supernode.state, supernode.state.object_store)

    monkeypatch.setattr(supernode_tasks, "time", SimpleNamespace(sleep=sleep))
    supernode.announce()
    assert SuperNodeTasks(supernode.address, SECRET).next() is not None
    assert len(slept) == 1


def test_a_message_that_is_lost_on_its_way_does_not_end_the_node(supernode: SuperNode) -> None:
    """As where the server fell while the SuperNode fetched it: what run_node takes for that is a ConnectionError."""
    tasks = SuperNodeTasks(supernode.address, SECRET)
    supernode.announce()
    with pytest.raises(ConnectionError, match="lost the message"):
        tasks.next()
    sent = order()
    supernode.receive(sent)
    supernode.state.object_store.delete(sent.metadata.message_id)
    with pytest.raises(ConnectionError):
        tasks.next()
    supernode.receive(order())
    assert tasks.next() is not None


def test_another_process_without_the_secret_gets_nothing(supernode: SuperNode) -> None:
    supernode.receive(order())
    with pytest.raises(ConnectionError, match="does not answer"):
        SuperNodeTasks(supernode.address, b"x" * 32).next()
    assert SuperNodeTasks(supernode.address, SECRET).next() is not None


def test_a_supernode_that_is_not_there(free_port_address: str) -> None:
    with pytest.raises(ConnectionError, match="does not answer"):
        SuperNodeTasks(free_port_address, SECRET).next()


@pytest.fixture
def free_port_address() -> str:
    return f"127.0.0.1:{free_port()}"


def test_a_reply_that_comes_late_is_sent_without_a_further_message(
    supernode: SuperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_pull_and_store_message", "_push_messages", "time"):
        monkeypatch.setattr(loop, name, getattr(loop, name))  # to be put back
    mend()
    sent: list[str] = []
    line = {"state": supernode.state, "object_store": supernode.state.object_store}

    def send(message: Message, *_: object) -> tuple[set[str], str]:
        sent.append(message.metadata.reply_to_message_id)
        return set(), "session"

    def look() -> None:
        given = dict.fromkeys(("get_run", "get_fab", "pull_object", "confirm_message_received", "trusted_entities"))
        assert loop._pull_and_store_message(**line, node_config={}, receive=lambda: None, **given) is None

    asked = []
    look()
    for number in range(2):
        asked.append(order())
        supernode.receive(asked[-1])
        task = SuperNodeTasks(supernode.address, SECRET).next()
        assert task is not None
        task.answer(Message(Error(number, "x"), reply_to=task.message))
        if number == 0:
            loop._push_messages(**line, send=send, push_object=lambda *_: None)
        look()
        assert sent == [message.metadata.message_id for message in asked]


def test_a_supernode_rests_for_a_shorter_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_pull_and_store_message", "_push_messages", "time"):
        monkeypatch.setattr(loop, name, getattr(loop, name))
    mend()
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    loop.time.sleep(3)
    loop.time.sleep(REST / 2)
    assert slept == [REST, REST / 2]


def test_flower_still_calls_by_keyword_what_is_mended() -> None:
    calls = {
        node.func.id: node
        for node in ast.walk(ast.parse(inspect.getsource(loop.start_client_internal)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for name in ("_pull_and_store_message", "_push_messages"):
        assert calls[name].args == [] and "state" in {keyword.arg for keyword in calls[name].keywords}
