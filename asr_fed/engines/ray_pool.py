"""Workers as actors of a Ray cluster: on this machine alone, or on many that share a file system."""

import pickle
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from asr_fed.engines.local_pool import OpenWorker
from asr_fed.engines.ray_cluster import connect, import_ray, needs, no_room, share_arrays
from asr_fed.engines.ray_worker import Numbered, RayWorker
from asr_fed.engines.workers import Event, WorkerLost

ROOM_TIMEOUT = 60.0  # seconds in which the cluster has to find room for a worker


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
        self._ray = import_ray(own_cluster=address is None)
        self._open_worker, self._threads, self._gpus = pickle.dumps(open_worker), threads, gpus_per_worker
        self._workers: dict[int, _Worker] = {}
        self._put: tuple[ArrayRecord, Any] | None = None  # the last record that went into the object store
        connect(self._ray, address)
        share_arrays(self._ray)
        self._actor_class = self._ray.remote(RayWorker)

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
        need = needs(self._threads, self._gpus)
        return WorkerLost(f"the Ray cluster had no room for worker {node} ({need}) within {ROOM_TIMEOUT:g} s")

    def close(self) -> None:
        """End all workers, and the cluster if it is our own."""
        if self._ray.is_initialized():
            for worker in self._workers.values():
                self._ray.kill(worker.actor)
            self._ray.shutdown()
        self._workers.clear()
        self._put = None


def _split(message: Message) -> tuple[Message, ArrayRecord | None]:
    """A message without its arrays, and the arrays."""
    content = RecordDict({name: record for name, record in message.content.items() if name != "arrays"})
    light = Message(content=content, metadata=message.metadata)  # type: ignore[call-overload]
    return light, message.content.array_records.get("arrays")


def _first_line(error: Exception) -> str:
    """What happened, without Ray's advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
