"""A Ray cluster: the package, joining or starting a cluster, its limits, and how arrays travel in it."""

import importlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array

from asr_fed.system.errors import UserError
from asr_fed.system.processes import available_cores

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds
# Paths of sockets: the longest that the system accepts, in bytes, and how Ray's continue after the temporary folder.
LONGEST_SOCKET, SOCKET = 107, "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


def no_room(room: int, threads: int, gpus: float) -> UserError:
    """The error for a cluster that has room for only `room` workers."""
    return UserError(
        f"The Ray cluster has room for {room} workers of {needs(threads, gpus)}, and engine.workers asks for more. "
        "Lower engine.workers or engine.threads_per_worker, or add machines to the cluster."
    )


def needs(threads: int, gpus: float) -> str:
    return f"{threads} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def check_temporary_folder() -> None:
    """Raises UserError if the paths of our own cluster's sockets would be too long in this folder."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(Path(folder) / SOCKET)) > LONGEST_SOCKET:
        raise UserError(
            f"Ray puts sockets into the temporary folder {folder}, whose path is too long for them. Set TMPDIR or "
            f"RAY_TMPDIR to one of at most {LONGEST_SOCKET - len(SOCKET) - 1} characters, such as /tmp."
        )


def import_ray(own_cluster: bool = False) -> Any:
    """Ray. For a cluster of our own it has to be imported here first: it reads these settings when it is imported.

    Raises UserError where it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker that asks for no GPU sees all of them, like a local worker. Ray warns if this is not set.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if own_cluster:
        _keep_to_ourselves()
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError('engine=ray needs Ray: pip install "asr_fed[ray]"') from error


def _keep_to_ourselves() -> None:
    """Our own cluster takes calls from this machine alone, and from nobody without its token: whoever may call it runs
    code as us. The token is in the environment of our own processes, which no other user can read.
    """
    if "RAY_AUTH_MODE" in os.environ:  # chosen by the user, or by us before
        return
    if "ray" in sys.modules:
        log.warning(
            "Ray was imported before: its cluster takes calls without a token, on all of the machine's addresses."
        )
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # As Ray does by itself on macOS and Windows: it listens on 127.0.0.1 in place of all of the machine's addresses.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def connect(ray: Any, address: str | None) -> None:
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


def share_arrays(ray: Any) -> None:
    """Let Ray move the bytes of a Flower Array as a separate buffer, which the receiver reads in shared memory."""
    ray.util.register_serializer(Array, serializer=_pack, deserializer=_unpack)


def _pack(array: Array) -> tuple[str, tuple[int, ...], str, np.ndarray]:
    return array.dtype, tuple(array.shape), array.stype, np.frombuffer(array.data, np.uint8)


def _unpack(packed: tuple[str, tuple[int, ...], str, np.ndarray]) -> Array:
    dtype, shape, stype, data = packed
    array = Array(dtype, shape, stype, b"")
    array.data = data.data  # type: ignore[assignment]  # what Flower calls a buffer of bytes
    return array
