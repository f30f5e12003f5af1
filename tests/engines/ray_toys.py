"""Workers that do odd things on purpose; quick to import, because each actor imports them again."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Message

from asr_fed.aggregation.update import empty
from asr_fed.engines.ray_pool import RayPool
from asr_fed.engines.workers import Workers
from asr_fed.system.errors import UserError
from asr_fed.wire.rounds import order_clients, reply_message
from tests.exchanging import order_to, replies_to


def toy_order(node: int, *clients: str) -> Message:
    return order_to(node, clients, np.zeros(3, np.float32), server_round=0)


def open_with_toys(
    run_dir: str, worker: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]
) -> Callable[[Message], Message]:
    """A worker of the experiment in `run_dir`, except that orders of round 0 do what the clients' names say."""

    @functools.cache
    def real() -> Callable[[Message], Message]:
        from asr_fed.federation import client_app

        return client_app.open_worker(run_dir, worker, on_client, superseded)

    def toy(name: str) -> None:
        if name == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        while name == "endless" and not superseded():
            on_client(name, 0.01)
            time.sleep(0.01)
        on_client(name, 0.0)

    def handle(message: Message) -> Message:
        if message.metadata.group_id != "0":
            return real()(message)
        for name in order_clients(message):
            toy(name)
        return reply_message(message, empty(3), {})

    return handle


def open_nothing(number: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]) -> Any:
    raise UserError("There is no such folder.")


def open_sleeper(number: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]) -> Any:
    def sleep(message: Message) -> None:
        on_client("a", 0.0)
        time.sleep(3600)

    return sleep


def train_for_ever() -> None:
    """What the test of Ctrl-C runs in a process of its own."""

    def tell(client: str) -> None:
        print("training", flush=True)

    try:
        with Workers(RayPool(open_sleeper), 1, on_client=tell) as grid:
            replies_to(grid, [toy_order(1, "a")])
    except KeyboardInterrupt:
        sys.exit(130)
