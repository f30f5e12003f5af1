"""An app behind TLS on this machine, as long as a context lasts."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from tests.waiting import PATIENCE, wait_until


@contextlib.contextmanager
def serving(app: Starlette, port: int, certificates: Path, date_header: bool = True) -> Iterator[None]:
    files = {"ssl_certfile": certificates / "server.crt", "ssl_keyfile": certificates / "server.key"}
    how = {"log_level": "critical", "timeout_graceful_shutdown": 1, "date_header": date_header}
    with running(uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **files, **how)), port):
        yield


@contextlib.contextmanager
def running(server: uvicorn.Server, port: int) -> Iterator[None]:
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(port)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def wait_for(port: int) -> None:
    def listens() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return True
        return False

    wait_until(listens, lambda: f"nothing listens at {port}")
