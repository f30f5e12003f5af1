"""Manners of a worker process."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess


def start_worker() -> None:
    """Call first in a worker: leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
