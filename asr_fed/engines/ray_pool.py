"""Workers as actors of a Ray cluster: on this machine alone, or on many that share a file system."""

import importlib
import os
import pickle
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from asr_fed.engines.local_pool import OpenWorker, describe_error
from asr_fed.engines.workers import RUN, Answer, ClientDone, Event, Ready, WorkerError, WorkerLost
from asr_fed.system.errors import UserError
from asr_fed.system.processes import available_cores, keep_freed_memory
from asr_fed.wire.flower_private import identify_process

ROOM_TIMEOUT = 60.0  # seconds in which the cluster has to find room for a worker
CONNECT_TIMEOUT = 10.0  # seconds
# Paths of sockets: the longest that the system accepts, in bytes, and how Ray's continue after the temporary folder.
LONGEST_SOCKET, SOCKET = 107, "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
GATHER = 0.1  # seconds for which a worker collects finished clients before it reports them

# An event, and the number of the message that it belongs to (0: none).
Numbered = tuple[int, Event]


@dataclass
class _Worker:
    """The driver's view of an actor.

    calls: those that have not returned; each returns a list of Numbered. `poll` is the call that waits for events.
    deadline: when it has to be placed on a machine; None: it has been.
    sent: the number of the newest message.
    """

    actor: Any
    calls: list[Any]
    poll: Any
    deadline: float | None
    sent: int = 0


class RayPool:
    """A `Pool` (see workers) of Ray actors with `threads` torch threads each.

    The global weights are put into Ray's object store once for all messages that carry the same record; workers and
    server read arrays directly in shared memory. A worker that is lost, alone or with its machine, is replaced where
    the cluster has room.

    Args:
        open_worker: as for LocalPool; called on the machine of the worker, in this process's working directory.
        address: of a running cluster; `auto`: the cluster that this machine belongs to; None: start one on this
            machine, which ends with the pool.
        gpus_per_worker: what a worker takes of a GPU.

    Raises UserError where Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self, open_worker: OpenWorker, address: str | None = None, threads: int = 1, gpus_per_worker: float = 0.0
    ) -> None:
        self._ray = import_ray()
        self._open_worker, self._threads, self._gpus = pickle.dumps(open_worker), threads, gpus_per_worker
        self._workers: dict[int, _Worker] = {}
        self._put: tuple[ArrayRecord, Any] | None = None  # the last record that went into the object store
        _connect(self._ray, address)
        _share_arrays(self._ray)
        self._actor_class = self._ray.remote(_Actor)

    def room(self) -> int:
        """How many workers the machines of the cluster can hold in total."""
        return sum(self._room_on(node["Resources"]) for node in self._ray.nodes() if node["Alive"])

    def _room_on(self, resources: dict[str, float]) -> int:
        rooms = [resources.get("CPU", 0) // self._threads]
        if self._gpus:
            rooms.append(resources.get("GPU", 0) // self._gpus)
        return int(min(rooms))

    def start(self, node: int) -> None:
        """See Pool. Raises UserError if the cluster has no room for another worker."""
        old = self._workers.get(node)
        if old is not None:
            self._ray.kill(old.actor)
        elif len(self._workers) >= (room := self.room()):
            self.close()
            raise no_room(room, self._threads, self._gpus)
        actor = self._actor_class.options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_restarts=0,  # Workers decides what happens to the clients of a lost worker
            max_concurrency=2,  # one call may wait for events while another delivers a message
            scheduling_strategy="SPREAD",
        ).remote(self._open_worker, node, self._threads, str(Path.cwd()), careful=old is not None)
        poll = actor.poll.remote()
        deadline = time.monotonic() + ROOM_TIMEOUT
        self._workers[node] = _Worker(actor, [actor.is_placed.remote(), poll], poll, deadline)

    def send(self, node: int, message: Message) -> None:
        worker = self._workers[node]
        worker.sent += 1
        light, arrays = _split(message)
        reference = None if arrays is None else self._reference(arrays)
        worker.calls.append(worker.actor.take.remote(worker.sent, light, reference))

    def _reference(self, arrays: ArrayRecord) -> Any:
        if self._put is None or self._put[0] is not arrays:
            self._put = (arrays, self._ray.put(arrays))
        return self._put[1]

    def receive(self, nodes: Collection[int], timeout: float | None) -> list[tuple[int, Event]]:
        end = None if timeout is None else time.monotonic() + timeout
        while not (events := self._look(nodes, end)):
            if end is not None and time.monotonic() >= end:
                break
        return events

    def _look(self, nodes: Collection[int], end: float | None) -> list[tuple[int, Event]]:
        """Wait until a call returns, until `end`, or until a deadline. A returned call may hold no event."""
        nodes_of = {call: node for node in nodes for call in self._workers[node].calls}
        ends = [end, *(self._workers[node].deadline for node in nodes)]
        until = min((moment for moment in ends if moment is not None), default=None)
        wait = None if until is None else max(0.0, until - time.monotonic())
        if not nodes_of:
            time.sleep(wait or 0.0)
            return []
        calls = list(nodes_of)
        self._ray.wait(calls, num_returns=1, timeout=wait)
        returned, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        events: list[tuple[int, Event]] = []
        lost: set[int] = set()
        for call in returned:
            node = nodes_of[call]
            if node not in lost:  # all calls of a lost worker fail
                found = self._collect(node, call)
                events += [(node, event) for event in found]
                lost |= {node for event in found if isinstance(event, WorkerLost)}
        return events + [(node, self._give_up(node)) for node in nodes if self._is_late(node)]

    def _collect(self, node: int, call: Any) -> list[Event]:
        worker = self._workers[node]
        try:
            numbered: list[Numbered] = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            worker.deadline = None
            return [WorkerLost(f"worker {node} was lost: {_first_line(error)}")]
        worker.deadline = None
        worker.calls.remove(call)
        if call is worker.poll:
            worker.poll = worker.actor.poll.remote()
            worker.calls.append(worker.poll)
        return [event for number, event in numbered if number in (0, worker.sent)]

    def _is_late(self, node: int) -> bool:
        deadline = self._workers[node].deadline
        return deadline is not None and time.monotonic() >= deadline

    def _give_up(self, node: int) -> Event:
        worker = self._workers[node]
        worker.deadline = None
        self._ray.kill(worker.actor)
        needs = _needs(self._threads, self._gpus)
        return WorkerLost(f"the Ray cluster had no room for worker {node} ({needs}) within {ROOM_TIMEOUT:g} s")

    def close(self) -> None:
        """End all workers, and the cluster if it is our own."""
        if self._ray.is_initialized():
            for worker in self._workers.values():
                self._ray.kill(worker.actor)
            self._ray.shutdown()
        self._workers.clear()
        self._put = None


class _Actor:
    """A worker: one thread handles messages, the others take calls of the driver.

    Events that a worker has not delivered are lost with it, so Workers may suspect a client that was already done.
    After a worker has been lost, its successor is `careful`: it continues only when the driver knows of the last
    client.
    """

    def __init__(self, open_worker: bytes, node: int, threads: int, folder: str, careful: bool) -> None:
        _share_arrays(import_ray())
        self._careful = careful
        self._inbox: queue.SimpleQueue[tuple[int, Message]] = queue.SimpleQueue()
        self._news: queue.Queue[Numbered] = queue.Queue()
        self._handed_over = 0  # events that the last `poll` returned; the driver has received them when it polls again
        threading.Thread(target=self._work, args=(open_worker, node, threads, folder), daemon=True).start()

    def is_placed(self) -> list[Numbered]:
        return []

    def take(self, number: int, message: Message, arrays: ArrayRecord | None) -> list[Numbered]:
        if arrays is not None:
            message.content["arrays"] = arrays
        self._inbox.put((number, message))
        return []

    def poll(self) -> list[Numbered]:
        """Wait for events. Finished clients are collected for a moment; everything else is reported at once."""
        for _ in range(self._handed_over):
            self._news.task_done()
        news = [self._news.get()]
        end = time.monotonic() + (0 if self._careful else GATHER)
        while isinstance(news[-1][1], ClientDone) and (left := end - time.monotonic()) > 0:
            try:
                news.append(self._news.get(timeout=left))
            except queue.Empty:
                break
        self._handed_over = len(news)
        return news

    def _work(self, open_worker: bytes, node: int, threads: int, folder: str) -> None:
        number = 0

        def on_client(client: str, seconds: float) -> None:
            self._news.put((number, ClientDone(client, seconds)))
            if self._careful:
                self._news.join()

        try:
            os.chdir(folder)
            import torch

            torch.set_num_threads(threads)
            keep_freed_memory()
            identify_process(run_id=RUN, node_id=node)
            opened: OpenWorker = pickle.loads(open_worker)  # now, since it imports much
            handle = opened(node - 1, on_client, lambda: not self._inbox.empty())
        except Exception as error:
            reason = (
                f"worker {node} could not start on {socket.gethostname()}: {describe_error(error)} (Every machine of "
                "the Ray cluster needs the working directory, run_dir, data.prepared and data.root at the same paths.)"
            )
            while True:
                number, _ = self._inbox.get()
                self._news.put((number, WorkerError(reason)))
        self._news.put((0, Ready()))
        while True:
            number, message = self._inbox.get()
            try:
                event: Event = Answer(handle(message))
            except Exception as error:
                event = WorkerError(f"worker {node} could not handle a message: {describe_error(error)}")
            self._news.put((number, event))


def no_room(room: int, threads: int, gpus: float) -> UserError:
    """The error for a cluster that has room for only `room` workers."""
    return UserError(
        f"The Ray cluster has room for {room} workers of {_needs(threads, gpus)}, and engine.workers asks for more. "
        "Lower engine.workers or engine.threads_per_worker, or add machines to the cluster."
    )


def _needs(threads: int, gpus: float) -> str:
    return f"{threads} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def check_temporary_folder() -> None:
    """Raises UserError if the paths of our own cluster's sockets would be too long in this folder."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(Path(folder) / SOCKET)) > LONGEST_SOCKET:
        raise UserError(
            f"Ray puts sockets into the temporary folder {folder}, whose path is too long for them. Set TMPDIR or "
            f"RAY_TMPDIR to one of at most {LONGEST_SOCKET - len(SOCKET) - 1} characters, such as /tmp."
        )


def import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker that asks for no GPU sees all of them, like a local worker. Ray warns if this is not set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError('engine=ray needs Ray: pip install "asr_fed[ray]"') from error


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster at `address`, or start one on this machine."""
    own = {"address": "local", "num_cpus": available_cores(), "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None and (found := re.fullmatch(r"\[?([^/\]]+)\]?:(\d+)", address)):
            socket.create_connection((found[1], int(found[2])), CONNECT_TIMEOUT).close()  # Ray would try for 3 minutes
        ray.init(**(own if address is None else {"address": address}), log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address is None:
            raise UserError(f"Ray cannot start a cluster on this machine: {error}.") from error
        raise UserError(
            f"engine.address={address}: the Ray cluster cannot be joined ({error}). Start one with "
            "`ray start --head`, or set engine.address=null for one on this machine."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray installs its own handler


def _share_arrays(ray: Any) -> None:
    """Let Ray move the bytes of a Flower Array as a separate buffer, which the receiver reads in shared memory."""
    ray.util.register_serializer(Array, serializer=_pack, deserializer=_unpack)


def _pack(array: Array) -> tuple[str, tuple[int, ...], str, np.ndarray]:
    return array.dtype, tuple(array.shape), array.stype, np.frombuffer(array.data, np.uint8)


def _unpack(packed: tuple[str, tuple[int, ...], str, np.ndarray]) -> Array:
    dtype, shape, stype, data = packed
    array = Array(dtype, shape, stype, b"")
    array.data = data.data  # type: ignore[assignment]  # what Flower calls a buffer of bytes
    return array


def _split(message: Message) -> tuple[Message, ArrayRecord | None]:
    """A message without its arrays, and the arrays."""
    content = RecordDict({name: record for name, record in message.content.items() if name != "arrays"})
    light = Message(content=content, metadata=message.metadata)  # type: ignore[call-overload]
    return light, message.content.array_records.get("arrays")


def _first_line(error: Exception) -> str:
    """What happened, without Ray's advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
