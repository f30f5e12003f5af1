"""A reverse proxy before the SuperLink: HTTPS that lets through what nodes ask, and nothing else.

A SuperLink of Flower 1.41 offers three services on one port. Nodes need the first, where each request is signed with
the key of a registered node. The other two (start a run with any code, register a node or take over a task) ask for no
login: whoever reaches the port owns the server. So the SuperLink listens on this machine only, and nodes reach this
proxy.
"""

import re
import ssl
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asr_fed.engines.deployment.flower import write_output_to
from asr_fed.system.processes import start_worker

# Headers of one connection, which a proxy does not pass on.
PER_CONNECTION = ("connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")


def run_proxy(host: str, port: int, superlink: int, certificates: Path, log: Path) -> None:
    """Serve at host:port, until this process is ended, what the SuperLink at 127.0.0.1:`superlink` is asked."""
    start_worker()
    write_output_to(log)
    uvicorn.run(
        proxy(f"https://127.0.0.1:{superlink}", certificates / "ca.crt"),
        host=host,
        port=port,
        ssl_certfile=certificates / "server.crt",
        ssl_keyfile=certificates / "server.key",
        log_level="warning",
    )


def proxy(superlink: str, ca: Path) -> Starlette:
    client = httpx.AsyncClient(
        base_url=superlink,
        verify=ssl.create_default_context(cafile=str(ca)),
        timeout=60,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    )

    async def forward(request: Request) -> Response:
        name = request.path_params["name"]
        if not re.fullmatch(r"[a-z-]+", name):
            return PlainTextResponse("not found", 404)
        headers = [(key, value) for key, value in request.headers.items() if key not in PER_CONNECTION]
        try:
            answer = await client.send(
                client.build_request("POST", f"/v1/fleet/{name}", headers=headers, content=request.stream()),
                stream=True,
            )
        except httpx.TransportError:
            return PlainTextResponse("the SuperLink is not there", 503)
        kept = {key: value for key, value in answer.headers.items() if key not in PER_CONNECTION}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    return Starlette(routes=[Route("/v1/fleet/{name}", forward, methods=["POST"])])
