"""A reverse proxy before the SuperLink: HTTPS that lets through what nodes ask, and nothing else.

A SuperLink of Flower 1.41 offers three services on one port. Nodes need the first, where each request is signed with
the key of a registered node. The other two (start a run with any code, register a node or take over a task) ask for no
login: whoever reaches the port owns the server. So the SuperLink listens on this machine only, and nodes reach this
proxy.
"""

import asyncio
import json
import logging.handlers
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asr_fed.engines.deployment.flower import write_output_to
from asr_fed.engines.deployment.signature import MEMBER, Registered, Stranger, sender
from asr_fed.system.processes import start_worker

logger = logging.getLogger("asr_fed.proxy")

# Headers of one connection, which a proxy does not pass on.
PER_CONNECTION = ("connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
# Flower sends arrays in chunks of 5 MiB, each in a request; a report of 100,000 clients has 4 MB.
LARGEST_BODY = 16 << 20  # bytes
SLOWEST_BODY = 60.0  # seconds
CONNECTIONS = 512
LOG_BYTES, LOGS = 5_000_000, 5  # of access.jsonl, and how many of it are kept
AWAY = "the SuperLink is not there"
NOTED = ("activate-node", "deactivate-node")  # what is logged where all is well


def run_proxy(host: str, port: int, superlink: int, certificates: Path, log: Path) -> None:
    """Serve at host:port, until this process is ended, what the SuperLink at 127.0.0.1:`superlink` is asked."""
    start_worker()
    write_output_to(log)
    access = logging.handlers.RotatingFileHandler(
        log.with_name("access.jsonl"), maxBytes=LOG_BYTES, backupCount=LOGS, encoding="utf-8"
    )
    logger.addHandler(access)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    uvicorn.run(
        proxy(f"https://127.0.0.1:{superlink}", certificates),
        host=host,
        port=port,
        ssl_certfile=certificates / "server.crt",
        ssl_keyfile=certificates / "server.key",
        log_level="warning",
        limit_concurrency=CONNECTIONS,
    )


def proxy(superlink: str, certificates: Path) -> Starlette:
    """`certificates` has the SuperLink's ca.crt, and the registered keys."""
    registered = Registered(certificates)
    client = httpx.AsyncClient(
        base_url=superlink,
        verify=ssl.create_default_context(cafile=str(certificates / "ca.crt")),
        timeout=60,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    )

    async def forward(request: Request) -> Response:
        name = request.path_params["name"]
        if not re.fullmatch(r"[a-z-]+", name):
            return PlainTextResponse("not found", 404)
        try:
            node = sender(request.headers, registered)
        except Stranger as stranger:
            return refuse(request, "?", 401, str(stranger))
        headers = [(key, value) for key, value in request.headers.items() if key not in PER_CONNECTION]
        try:
            answer = await client.send(
                client.build_request("POST", f"/v1/fleet/{name}", headers=headers, content=_limited(request)),
                stream=True,
            )
        except TooMuch as much:
            return refuse(request, node, 413, str(much))
        except TimeoutError:
            return refuse(request, node, 408, f"no whole body within {SLOWEST_BODY:g} s")
        except ClientDisconnect:
            return refuse(request, node, 499, "gone before its body was whole")
        except httpx.TransportError:
            return refuse(request, node, 503, AWAY)
        if name in NOTED or answer.status_code >= 400:
            note(request, node, answer.status_code, "")
        kept = {key: value for key, value in answer.headers.items() if key not in PER_CONNECTION}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def health(_request: Request) -> Response:
        return PlainTextResponse("ok") if await _is_there(client) else PlainTextResponse(AWAY, 503)

    async def member(request: Request) -> Response:
        """The name of the node that asks: it sees that its key is registered before it starts its SuperNode."""
        try:
            node = sender(request.headers, registered)
        except Stranger as stranger:
            return refuse(request, "?", 401, str(stranger))
        return PlainTextResponse(node) if await _is_there(client) else PlainTextResponse(AWAY, 503)

    return Starlette(
        routes=[
            Route("/v1/fleet/{name}", forward, methods=["POST"]),
            Route(MEMBER, member, methods=["GET"]),
            Route("/healthz", health, methods=["GET"]),
        ]
    )


async def _is_there(superlink: httpx.AsyncClient) -> bool:
    try:
        return (await superlink.get("/health", timeout=5)).status_code == 200
    except httpx.TransportError:
        return False


class TooMuch(Exception):
    """A body beyond LARGEST_BODY."""


async def _limited(request: Request) -> AsyncIterator[bytes]:
    """The body, of at most so many bytes and in at most so much time. Raises TooMuch, TimeoutError."""
    if int(request.headers.get("content-length", "0")) > LARGEST_BODY:
        raise TooMuch(f"a body of more than {LARGEST_BODY} bytes")
    total = 0
    async with asyncio.timeout(SLOWEST_BODY):
        async for chunk in request.stream():
            total += len(chunk)
            if total > LARGEST_BODY:
                raise TooMuch(f"a body of more than {LARGEST_BODY} bytes")
            yield chunk


def refuse(request: Request, node: str, status: int, reason: str) -> Response:
    """The answer, and a line of the log. The connection ends with it: what is left of a body is not read."""
    note(request, node, status, reason)
    return PlainTextResponse(reason, status, headers={"connection": "close"})


def note(request: Request, node: str, status: int, reason: str) -> None:
    """A line of access.jsonl: who came, when, with what outcome."""
    peer = request.client.host if request.client else "?"
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "peer": peer, "node": node, "path": request.url.path[:100]}
    logger.info(json.dumps(entry | {"status": status, "reason": reason}))
