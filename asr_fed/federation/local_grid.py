"""The default engine: a Flower Grid over persistent worker processes on this machine.

Each worker is one node. It runs the ClientApp on the messages that it is handed, with model and features
resident, for as long as the run lasts: no cluster to start, and one message a worker and round.
"""

import itertools
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from asr_fed.federation.flower_private import Run, identify_process, set_message_id
from asr_fed.processes import available_cores, start_worker

RUN, SERVER = 1, 0  # ids in Flower's sense; workers are nodes 1, 2, ...
WORKER_ERROR, WORKER_LOST, TIMED_OUT = 1, 2, 3
PATIENCE = 5  # seconds that a worker has to end
ATTEMPTS = 2  # a worker that dies is replaced, and its message tried once more


def default_workers(device: torch.device, threads: int) -> int:
    """As many as there are GPUs, or cores for `threads` threads each."""
    return torch.cuda.device_count() if device.type == "cuda" else max(1, available_cores() // threads)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection


@dataclass
class _Pending:
    message: Message
    attempts: int = 1
    done: list[str] = field(default_factory=list)  # clients reported as trained


class LocalGrid(Grid):
    """Workers 1..n as nodes of a Flower grid. A context manager: leaving it ends the workers.

    Args:
        run_dir: what the workers open.
        workers: how many.
        threads: torch threads of each.
        on_client: told the id of each client that has been trained.
    """

    def __init__(
        self, run_dir: str, workers: int, threads: int, on_client: Callable[[str], None] = lambda client: None
    ) -> None:
        identify_process(run_id=RUN, node_id=SERVER)
        self._run = Run.create_empty(run_id=RUN)
        self._run_dir, self._threads, self._on_client = run_dir, threads, on_client
        self._ids = (str(number) for number in itertools.count(1))
        self._replies: dict[str, Message] = {}
        self._pending: dict[int, _Pending] = {}
        self._workers = {node: self._start(node) for node in range(1, workers + 1)}

    def __enter__(self) -> "LocalGrid":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(PATIENCE)
            worker.process.kill()

    def _start(self, node: int) -> _Worker:
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, self._run_dir, node, self._threads), name=f"asr_fed worker {node}", daemon=True
        )
        process.start()
        there.close()
        return _Worker(process, here)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._workers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to its worker; a worker has one message at a time. Returns message ids."""
        pushed = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self._pending:
                raise ValueError(f"worker {node} has not answered its last message yet")
            message_id = next(self._ids)
            set_message_id(message, message_id)
            self._pending[node] = _Pending(message)
            self._send(node, message)
            pushed.append(message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived by now, each once."""
        self._receive(0.0)
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Hand out the messages and wait for the replies.

        A worker that takes longer than `timeout` seconds is replaced, and its reply is an error; so is that of a
        worker that died twice over the same message.
        """
        expected = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        while expected - self._replies.keys():
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                for node in list(self._pending):
                    self._replace(node)
                    self._fail(node, TIMED_OUT, f"no answer within {timeout:g} s")
                break
            self._receive(remaining)
        return [self._replies.pop(message_id) for message_id in sorted(expected, key=int)]

    def _send(self, node: int, message: Message) -> None:
        with suppress(OSError):  # it died before it could read: `_receive` sees the closed pipe
            self._workers[node].pipe.send(message)

    def _receive(self, timeout: float | None) -> None:
        pipes = {self._workers[node].pipe: node for node in self._pending}
        for pipe in wait(list(pipes), timeout):
            node = pipes[cast(Connection, pipe)]
            pending = self._pending[node]
            try:
                kind, content = cast(Connection, pipe).recv()
            except (EOFError, OSError):
                self._revive(node, pending)
                continue
            if kind == "client":
                if content not in pending.done:  # trained again by the worker's successor
                    pending.done.append(content)
                    self._on_client(content)
            elif kind == "error":
                self._fail(node, WORKER_ERROR, content)
            else:
                del self._pending[node]
                self._replies[pending.message.metadata.message_id] = content

    def _revive(self, node: int, pending: _Pending) -> None:
        code = self._replace(node)
        if pending.attempts < ATTEMPTS:
            pending.attempts += 1
            self._send(node, pending.message)
        else:
            self._fail(node, WORKER_LOST, f"worker {node} died {ATTEMPTS} times over these clients (exit code {code})")

    def _replace(self, node: int) -> int | None:
        worker = self._workers[node]
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        self._workers[node] = self._start(node)
        return worker.process.exitcode

    def _fail(self, node: int, code: int, reason: str) -> None:
        message = self._pending.pop(node).message
        self._replies[message.metadata.message_id] = Message(Error(code, reason), reply_to=message)


def _work(pipe: Connection, run_dir: str, node: int, threads: int) -> None:
    """A worker's life: answer messages until the pipe closes."""
    start_worker()
    from asr_fed.federation import client_app

    torch.set_num_threads(threads)
    identify_process(run_id=RUN, node_id=node)
    context = Context(RUN, node, {"run-dir": run_dir, "worker": node - 1}, state=RecordDict(), run_config={})
    try:
        client_app.resident_node(run_dir, node - 1).on_client = lambda client: pipe.send(("client", client))
    except Exception:
        pipe.send(("error", traceback.format_exc()))
        return
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        try:
            reply = client_app.app(message, context)
        except Exception:
            pipe.send(("error", traceback.format_exc()))
        else:
            pipe.send(("reply", reply))
