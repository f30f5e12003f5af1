"""Workers as processes on this machine, each connected by a pipe."""

import pickle
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

from flwr.app import Message

from asr_fed.engines.workers import RUN, Answer, ClientDone, Event, Ready, WorkerError, WorkerLost
from asr_fed.system.errors import UserError
from asr_fed.system.processes import deaf_to_ctrl_c, keep_freed_memory, start_worker
from asr_fed.wire.flower_private import identify_process

PATIENCE = 5  # seconds that a worker has to end

Handle = Callable[[Message], Message]
# Makes a worker's message handler from: its number (from 0), a function to call for each trained client (id, seconds),
# and a function that says whether a newer message has arrived. Called in the worker; has to be picklable.
OpenWorker = Callable[[int, Callable[[str, float], None], Callable[[], bool]], Handle]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    sent: int = 0  # messages; the number of the newest


class LocalPool:
    """A `Pool` (see workers) of processes with `threads` torch threads each."""

    def __init__(self, open_worker: OpenWorker, threads: int = 1) -> None:
        self._open_worker, self._threads = pickle.dumps(open_worker), threads
        self._workers: dict[int, _Worker] = {}

    def start(self, node: int) -> None:
        if old := self._workers.pop(node, None):
            old.pipe.close()
            old.process.kill()
            old.process.join()
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work,
            args=(there, self._open_worker, node, self._threads),
            name=f"asr_fed worker {node}",
            daemon=True,
        )
        with deaf_to_ctrl_c():
            process.start()
        there.close()
        self._workers[node] = _Worker(process, here)

    def send(self, node: int, message: Message) -> None:
        worker = self._workers[node]
        worker.sent += 1
        with suppress(OSError):  # it died before it read the message: `receive` sees the closed pipe
            worker.pipe.send((worker.sent, message))

    def receive(self, nodes: Collection[int], timeout: float | None) -> list[tuple[int, Event]]:
        pipes = {self._workers[node].pipe: node for node in nodes}
        events: list[tuple[int, Event]] = []
        for pipe in wait(list(pipes), timeout):
            node = pipes[cast(Connection, pipe)]
            try:
                number, event = cast(Connection, pipe).recv()
                if number in (None, self._workers[node].sent):
                    events.append((node, event))
            except (EOFError, OSError):
                process = self._workers[node].process
                process.join(PATIENCE)
                events.append((node, WorkerLost(f"worker {node} died (exit code {process.exitcode})")))
        return events

    def close(self) -> None:
        for worker in self._workers.values():
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()
        self._workers.clear()


def _work(pipe: Connection, open_worker: bytes, node: int, threads: int) -> None:
    """A worker's life: handle messages until the pipe closes."""
    start_worker()
    keep_freed_memory()
    import torch

    torch.set_num_threads(threads)
    identify_process(run_id=RUN, node_id=node)
    number: int | None = None  # of the current message

    def tell(event: Event) -> None:
        pipe.send((number, event))

    with suppress(EOFError, OSError):  # the pipe is closed at the end
        try:
            opened: OpenWorker = pickle.loads(open_worker)  # now, since it imports much
            handle = opened(node - 1, lambda client, seconds: tell(ClientDone(client, seconds)), pipe.poll)
        except Exception as error:
            tell(WorkerError(f"worker {node} could not start: {describe_error(error)}"))
            raise
        tell(Ready())
        while True:
            number, message = pipe.recv()
            try:
                event: Event = Answer(handle(message))
            except Exception as error:
                event = WorkerError(f"worker {node} could not handle a message: {describe_error(error)}")
            tell(event)


def describe_error(error: Exception) -> str:
    """The error in one line, as the reason of a failure."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
