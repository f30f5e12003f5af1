"""The worker on the machine of a Ray cluster: an actor that handles messages."""

import os
import pickle
import queue
import socket
import threading
import time

from flwr.app import ArrayRecord, Message

from asr_fed.engines.local_pool import OpenWorker, describe_error
from asr_fed.engines.ray_cluster import import_ray, share_arrays
from asr_fed.engines.workers import RUN, Answer, ClientDone, Event, Ready, WorkerError
from asr_fed.system.processes import keep_freed_memory
from asr_fed.wire.flower_private import identify_process

GATHER = 0.1  # seconds for which a worker collects finished clients before it reports them

# An event, and the number of the message that it belongs to (0: none).
Numbered = tuple[int, Event]


class RayWorker:
    """A worker: one thread handles messages, the others take calls of the driver.

    Events that a worker has not delivered are lost with it, so Workers may suspect a client that was already done.
    After a worker has been lost, its successor is `careful`: it continues only when the driver knows of the last
    client.
    """

    def __init__(self, open_worker: bytes, node: int, threads: int, folder: str, careful: bool) -> None:
        share_arrays(import_ray())
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
