"""Messages for this node, taken from its SuperNode: in Flower's terms, our own executor.

By default a SuperNode installs the code that a server ships with its run, and starts it for each message. With
`--isolation process` it leaves that to an external process, which is this module. It takes the message and ignores the
shipped code: a node runs only what its owner has installed.

The names of Flower 1.41 used here are private. tests/engines/deployment/test_supernode_tasks.py checks that Flower
still has them.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from asr_fed.wire.flower_private import set_message_id
from asr_fed.wire.inflate import counted, inflate, object_ids, unreadable
from asr_fed.wire.messages import Refused

PULSE = 10  # seconds between heartbeats; a SuperNode gives up a task after a minute without one
LARGEST = 8 << 30  # bytes: the weights of the largest model that a node takes
PAUSE = 0.1, 1.0  # seconds between polls for arrays that have not arrived yet, at first and at most


@dataclass
class Task:
    """A message that is answered once. A message that could not be read is an error that says why."""

    message: Message
    _context: Context
    _client: RuntimeHttpClient

    def answer(self, reply: Message) -> None:
        """Pass the reply to the SuperNode, which sends it. Raises ConnectionError if the SuperNode is gone."""
        with _connection_errors():
            push_message(self._client, reply, self._context)
            push_task_output(self._client, self._context, SubStatus.COMPLETED, "")
        self._client.close()

    @contextmanager
    def signs_of_life(self) -> Iterator[None]:
        """Send heartbeats to the SuperNode while the context lasts."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(PULSE):
                with suppress(httpx.HTTPError):
                    self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class SuperNodeTasks:
    """The tasks of the SuperNode at `address` (host:port), which was started with the same `secret`.

    `largest`: bytes that the arrays of a message may have.
    """

    def __init__(self, address: str, secret: bytes, largest: int = LARGEST) -> None:
        self._address, self._largest = address, largest
        acquire = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        self._client = self._connect(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=acquire), "SuperExec"
        )

    def next(self) -> Task | None:
        """The next message, None if there is none now.

        Raises ConnectionError if there is no SuperNode, or if it cannot deliver the whole message.
        """
        with _connection_errors():
            offered = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            if not offered.token:
                return None
            client = self._connect(RuntimeTokenHttpInterceptor(offered.token), "flwr-clientapp")
            return _pull(client, self._largest)

    def _connect(
        self, authentication: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor, component: str
    ) -> RuntimeHttpClient:
        interceptors = [RuntimeVersionHttpInterceptor(component_name=component), authentication]
        return RuntimeHttpClient.from_server_address(
            self._address, insecure=True, root_certificates=None, interceptors=interceptors
        )


def _pull(client: RuntimeHttpClient, largest: int) -> Task:
    given = client.PullTaskInput(PullTaskInputRequest())  # also holds the shipped code, which is never opened
    context = context_from_proto(given.context)
    proto, tree = _announced(client)
    try:
        message = _fetch(client, context, tree, largest)
    except Refused as refused:
        message = unreadable(proto, str(refused))
    set_message_id(message, tree.object_id)
    return Task(message, context, client)


def _fetch(client: RuntimeHttpClient, context: Context, tree: ObjectTree, largest: int) -> Message:
    node = Node(node_id=context.node_id)
    pull = counted(make_pull_object_fn_protobuf(client.PullObject, node, context.run_id), largest)
    confirm = make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id)
    try:
        contents = pull_objects(object_ids(tree), pull, initial_backoff=PAUSE[0], backoff_cap=PAUSE[1])
    except Refused:
        confirm(tree.object_id)
        raise
    confirm(tree.object_id)
    return inflate(tree.object_id, contents, largest)


def _announced(client: RuntimeHttpClient) -> tuple[ProtoMessage, ObjectTree]:
    for pause in (*PAUSE, 0.0):  # a SuperNode creates the task a moment before it stores the message
        pulled = client.PullMessages(PullAppMessagesRequest())
        if pulled.message_object_trees:
            return pulled.messages_list[0], pulled.message_object_trees[0]
        time.sleep(pause)
    raise ConnectionError("the SuperNode of this node has lost the message of a task")


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ObjectPullError, ObjectPushError, UnexpectedObjectContentError) as error:
        raise ConnectionError(f"the SuperNode of this node does not answer: {error}") from error
