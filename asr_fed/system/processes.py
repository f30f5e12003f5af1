"""Processes: signals, memory, cores."""

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def limit_memory(most: int | None = None) -> None:
    """From now on this process and those that it starts get no more than so many bytes of data each.

    None: 80 % of the machine's memory, so that what a message makes of itself ends in a MemoryError of one process and
    not in the system's choice of a victim. A lower limit that is there already stays. Where the system has no such
    limit, nothing happens.
    """
    with suppress(OSError, ValueError):
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(0.8 * physical) if most is None else most
        wanted = min([wanted, *(each for each in (soft, hard) if each != resource.RLIM_INFINITY)])
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started in this context never receive Ctrl-C, not even before `start_worker`; this one receives it
    afterwards."""
    resource_tracker.ensure_running()  # started later, it would remove the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker() -> None:
    """Call this first in a worker: Ctrl-C is left to the parent, and the worker ends with the parent, even if that is
    killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step: otherwise its pages would be mapped again in each step."""
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, 1 << 30)


def open_more_files() -> None:
    """From now on this process may have as many files and connections open as its user; the usual limit is 1024."""
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def available_cores() -> int:
    """Cores that this process may use (or all, if the system cannot say)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    try:
        # getrusage would do, but on Linux it starts from what the parent had when it started this process.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024**2 if sys.platform == "darwin" else 1024)
