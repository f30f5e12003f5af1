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
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asr_fed.engines.deployment.connections import Connections, Limits, Server, Visit, listen
from asr_fed.engines.deployment.flower import write_output_to
from asr_fed.engines.deployment.signature import MEMBER, Registered, Stranger, sender
from asr_fed.system.processes import open_more_files, start_worker

logger = logging.getLogger("asr_fed.proxy")

# Headers of one connection, which a proxy does not pass on.
PER_CONNECTION = ("connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
LIMITS = Limits()
AWAY = "the SuperLink is not there"
LAST = {"connection": "close"}  # header of an answer after which the connection ends
NOTED = ("activate-node", "deactivate-node")  # what is logged where all is well


def run_proxy(host: str, port: int, superlink: int, certificates: Path, log: Path, limits: Limits = LIMITS) -> None:
    """Serve at host:port, until this process is ended, what the SuperLink at 127.0.0.1:`superlink` is asked."""
    start_worker()
    open_more_files()
    write_output_to(log)
    access = logging.handlers.RotatingFileHandler(
        log.with_name("access.jsonl"), maxBytes=limits.log_bytes, backupCount=limits.logs, encoding="utf-8"
    )
    logger.addHandler(access)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    make_server(host, port, superlink, certificates, limits).run()


def make_server(host: str, port: int, superlink: int, certificates: Path, limits: Limits = LIMITS) -> Server:
    """The proxy before it runs; it listens already."""

    def tell(peer: str, status: int, reason: str, count: int) -> None:
        note(peer, "?", "", status, reason, connections=count)

    connections = Connections(limits, tell)
    config = uvicorn.Config(
        connections.watch(proxy(f"https://127.0.0.1:{superlink}", certificates, limits)),
        ssl_certfile=certificates / "server.crt",
        ssl_keyfile=certificates / "server.key",
        ws="none",
        proxy_headers=False,  # an address in a header is what somebody says
        log_level="error",
    )
    return Server(config, listen(host, port), connections)


def proxy(superlink: str, certificates: Path, limits: Limits = LIMITS) -> Starlette:
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
            return refuse(request, "?", 404, "Not Found")
        try:
            node = sender(request.headers, registered)
        except Stranger as stranger:
            return refuse(request, "?", 401, str(stranger))
        visit: Visit = request.state.visit
        if not visit.welcome(node if node != "?" else f"? at {visit.peer}"):  # where nobody has a name yet
            return refuse(request, node, 429, f"more than {limits.of_member} connections")
        try:
            answer = await _ask(client, f"/v1/fleet/{name}", request, limits)
        except NoAnswer as none:
            return refuse(request, node, none.status, str(none))
        if name in NOTED or answer.status_code >= 400:
            note(_peer(request), node, request.url.path, answer.status_code, "")
        kept = {key: value for key, value in answer.headers.items() if key not in PER_CONNECTION}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def health(_request: Request) -> Response:
        there = await _is_there(client)
        return PlainTextResponse("ok" if there else AWAY, 200 if there else 503, headers=LAST)

    async def member(request: Request) -> Response:
        """The name of the node that asks: it sees that its key is registered before it starts its SuperNode."""
        try:
            node = sender(request.headers, registered)
        except Stranger as stranger:
            return refuse(request, "?", 401, str(stranger))
        there = await _is_there(client)
        return PlainTextResponse(node if there else AWAY, 200 if there else 503, headers=LAST)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refuse(request, "?", error.status_code, error.detail)

    app = Starlette(
        routes=[
            Route("/v1/fleet/{name}", forward, methods=["POST"]),
            Route(MEMBER, member, methods=["GET"]),
            Route("/healthz", health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: unknown},  # no such path, another method
    )
    app.router.redirect_slashes = False
    return app


class NoAnswer(Exception):
    """The SuperLink was not asked, or not to the end. `status` is what whoever wanted it is told instead."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _ask(superlink: httpx.AsyncClient, path: str, request: Request, limits: Limits) -> httpx.Response:
    """The SuperLink's answer, of which the body is still to be read. Raises NoAnswer."""
    headers = [(key, value) for key, value in request.headers.items() if key not in PER_CONNECTION]
    passed_on = superlink.build_request("POST", path, headers=headers, content=_limited(request, limits))
    try:
        return await superlink.send(passed_on, stream=True)
    except TimeoutError as error:
        raise NoAnswer(408, f"no whole body within {limits.body_seconds:g} s") from error
    except ClientDisconnect as error:
        raise NoAnswer(499, "gone before its body was whole") from error
    except httpx.TransportError as error:
        raise NoAnswer(503, AWAY) from error


async def _is_there(superlink: httpx.AsyncClient) -> bool:
    try:
        return (await superlink.get("/health", timeout=5)).status_code == 200
    except httpx.TransportError:
        return False


async def _limited(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body, of at most so many bytes and in at most so much time. Raises NoAnswer, TimeoutError."""
    much = NoAnswer(413, f"a body of more than {limits.body} bytes")
    if int(request.headers.get("content-length", "0")) > limits.body:
        raise much
    total = 0
    async with asyncio.timeout(limits.body_seconds):
        async for chunk in request.stream():
            total += len(chunk)
            if total > limits.body:
                raise much
            yield chunk


def refuse(request: Request, node: str, status: int, reason: str) -> Response:
    """The answer, and a line of the log. The connection ends with it: what is left of a body is not read."""
    note(_peer(request), node, request.url.path, status, reason)
    return PlainTextResponse(reason, status, headers=LAST)


def note(peer: str, node: str, path: str, status: int, reason: str, **more: int) -> None:
    """A line of access.jsonl: who came, when, with what outcome."""
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "peer": peer, "node": node, "path": path[:100]}
    logger.info(json.dumps(entry | {"status": status, "reason": reason} | more))


def _peer(request: Request) -> str:
    visit: Visit = request.state.visit
    return visit.peer
