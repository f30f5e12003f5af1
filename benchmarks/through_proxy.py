"""What the proxy of a deployment costs by itself, as a process of its own, before a server that takes and gives bytes.

Its CPU seconds are taken from the system's account of its process: on a machine with a core for it, nodes wait no
longer than that, and a busy machine does not change the figure.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asr_fed.engines.deployment.credentials import make_certificates, make_node_key
from asr_fed.engines.deployment.flower import end_process
from asr_fed.engines.deployment.proxy import run_proxy
from asr_fed.engines.deployment.signature import sign
from asr_fed.system.processes import start_worker
from asr_fed.wire.members import Member, write_members

LOCAL = "127.0.0.1"
CHUNK = 5 << 20  # bytes that Flower sends in one request
WANTED = "wanted-bytes"  # header: as many bytes come back
WARM = 20  # requests that are not counted


@dataclass(frozen=True)
class Cost:
    cpu: float  # seconds of the proxy's process
    longer: float  # seconds by which the requests, one after the other, took longer with it


def proxy_cost(folder: Path, up: int, down: int, requests: int) -> Cost:
    """Of so many requests that carry `up` bytes to the server and `down` bytes back; `folder` is for keys and logs."""
    certificates, inner, outer = folder / "certificates", free_port(), free_port()
    make_certificates(certificates, [])
    public = make_node_key(folder / "key").read_text()
    write_members(certificates, {1: Member("clinic", key=public)})
    with (
        _running(_serve, inner, certificates),
        _running(run_proxy, LOCAL, outer, inner, certificates, folder / "proxy.log", port=outer) as proxy,
        _client(certificates) as client,
    ):
        pid, seconds = int(proxy.pid or 0), {}
        for port in (inner, outer):
            _send(client, port, folder / "key", 0, 0, WARM)
            before = cpu_seconds(pid)
            started = time.perf_counter()
            _send(client, port, folder / "key", up, down, requests)
            seconds[port] = time.perf_counter() - started
        return Cost(cpu_seconds(pid) - before, seconds[outer] - seconds[inner])


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; the clock's number is Linux's own (MAKE_PROCESS_CPUCLOCK)."""
    return time.clock_gettime(~pid << 3 | 2)


def _client(certificates: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    return httpx.Client(verify=context, trust_env=False, timeout=60)


def _send(client: httpx.Client, port: int, key: Path, up: int, down: int, requests: int) -> None:
    """As few requests as possible carry the bytes, and the others none."""
    bodies = [(size, 0) for size in _pieces(up)] + [(0, size) for size in _pieces(down)]
    for sent, wanted in bodies + [(0, 0)] * (requests - len(bodies)):
        headers = {**sign(key), WANTED: str(wanted)}
        answer = client.post(f"https://{LOCAL}:{port}/v1/fleet/push-object", headers=headers, content=bytes(sent))
        answer.raise_for_status()


def _pieces(size: int) -> list[int]:
    return [CHUNK] * (size // CHUNK) + [size % CHUNK] * (size % CHUNK > 0)


def _serve(port: int, certificates: Path) -> None:
    """In place of the SuperLink."""

    async def take(request: Request) -> Response:
        await request.body()
        return Response(bytes(int(request.headers[WANTED])))

    start_worker()
    server = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[Route("/v1/fleet/{name}", take, methods=["POST"])]),
            host=LOCAL,
            port=port,
            log_level="critical",
            ssl_certfile=certificates / "server.crt",
            ssl_keyfile=certificates / "server.key",
        )
    )
    asyncio.run(server.serve())


@contextmanager
def _running(target: object, *arguments: object, port: int | None = None) -> Iterator[BaseProcess]:
    """A process that listens at `port`, else at its first argument."""
    process = get_context("spawn").Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    try:
        while not _listens(port or int(str(arguments[0]))):
            assert process.is_alive(), "it has ended"
            time.sleep(0.1)
        yield process
    finally:
        end_process(process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOCAL, port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])
