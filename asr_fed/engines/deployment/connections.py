"""The connections of a server that strangers reach: how many there may be, and how long they may say nothing.

uvicorn has no clock before a connection's first request, and one limit for everybody together: whoever opened that many
and said nothing kept all nodes out. Here they are accepted, counted and closed, from before the TLS handshake on.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

BACKLOG = 2048  # connections that the system holds until they are accepted
PAUSE = 0.1  # seconds, where there is no file descriptor left for another connection
TOLD = 20  # addresses of which the log says at a time what they had closed


@dataclass(frozen=True)
class Limits:
    """What a proxy gives those who come to it.

    patience: seconds in which a connection has to shake hands and send the headers of a request that a member signed.
    strangers: connections that have not done so, of everybody together. One more, and the address with the most of
    them loses its oldest one: addresses may be shared, and a node needs its place for a moment.
    of_member: connections of one member; a SuperNode needs a handful.
    body: bytes of a request. Flower sends a state of any size in chunks of 5 MiB, each in a request of its own; a
    report of 100,000 clients has 4 MB.
    body_seconds: for all of it.
    told_every: seconds between two entries of the log about connections that were closed.
    log_bytes, logs: of access.jsonl, and how many of it are kept.
    """

    patience: float = 10.0
    strangers: int = 256
    of_member: int = 32
    body: int = 16 << 20
    body_seconds: float = 60.0
    told_every: float = 10.0
    log_bytes: int = 5_000_000
    logs: int = 5


@dataclass(eq=False)
class Visit:
    """A connection; `member` is whose it is, once a request was signed."""

    among: "Connections"
    connection: socket.socket
    peer: str
    member: str | None = None
    asked: bool = False
    transport: asyncio.Transport | None = None  # after the handshake
    clock: asyncio.TimerHandle | None = None

    def welcome(self, member: str) -> bool:
        """A request begins that `member` has signed. False where it has as many connections as it may have."""
        return self.among.welcome(self, member)


@dataclass
class Connections:
    """`tell` is called with an address, a status, a reason, and how many connections were closed for it."""

    limits: Limits
    tell: Callable[[str, int, str, int], None]
    strangers: dict[Visit, None] = field(default_factory=dict)  # oldest first
    members: Counter[str] = field(default_factory=Counter)
    _closed: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    _telling: asyncio.TimerHandle | None = None

    def enter(self, connection: socket.socket, peer: str) -> Visit:
        """Whoever comes gets a place, and where there is none, that of another stranger."""
        if len(self.strangers) >= self.limits.strangers:
            crowds = Counter(visit.peer for visit in self.strangers)
            crowd = crowds.most_common(1)[0][0]
            oldest = next(visit for visit in self.strangers if visit.peer == crowd)
            self._close(oldest, 503, "too many connections without a signed request, most from this address")
        visit = Visit(self, connection, peer)
        self.strangers[visit] = None
        self._start_clock(visit)
        return visit

    def welcome(self, visit: Visit, member: str) -> bool:
        if visit.member is None:
            if visit not in self.strangers or self.members[member] >= self.limits.of_member:
                return False
            del self.strangers[visit]
            visit.member = member
            self.members[member] += 1
        _stop_clock(visit)
        return True

    def leave(self, visit: Visit) -> None:
        _stop_clock(visit)
        if visit.member is None:
            self.strangers.pop(visit, None)
        else:
            self.members -= Counter([visit.member])  # an entry of 0 goes
            visit.member = None

    def watch(self, app: ASGIApp) -> ASGIApp:
        """The app; a member's connection has to bring its next request in time, too."""

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            visit: Visit | None = scope.get("state", {}).get("visit")
            try:
                await app(scope, receive, send)
            finally:
                if visit is not None:
                    visit.asked = True
                    if visit.member is not None:
                        self._start_clock(visit)

        return run

    def refused(self, peer: str, status: int, reason: str) -> None:
        """Count it for the log, which is not to grow with each connection."""
        self._closed[peer, status, reason] += 1
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(self.limits.told_every, self._tell)

    def _start_clock(self, visit: Visit) -> None:
        _stop_clock(visit)
        visit.clock = asyncio.get_running_loop().call_later(
            self.limits.patience, self._close, visit, 408, f"no signed request within {self.limits.patience:g} s"
        )

    def _close(self, visit: Visit, status: int, reason: str) -> None:
        if not visit.asked:  # else it had its answer, and a line of the log with it
            self.refused(visit.peer, status, reason)
        self.leave(visit)
        if visit.transport is not None:
            visit.transport.abort()
        else:
            with suppress(OSError):
                visit.connection.shutdown(socket.SHUT_RDWR)

    def _tell(self) -> None:
        self._telling = None
        closed, self._closed = self._closed.most_common(), Counter()
        for (peer, status, reason), count in closed[:TOLD]:
            self.tell(peer, status, reason, count)
        if rest := closed[TOLD:]:
            self.tell("?", 503, f"{len(rest)} more addresses", sum(count for _, count in rest))


def _stop_clock(visit: Visit) -> None:
    if visit.clock is not None:
        visit.clock.cancel()
        visit.clock = None


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, of one visit."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.app_state["visit"].transport = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        visit: Visit = self.app_state["visit"]
        visit.among.leave(visit)

    def send_400_response(self, msg: str) -> None:
        visit: Visit = self.app_state["visit"]
        visit.asked = True
        visit.among.refused(visit.peer, 400, msg)
        super().send_400_response(msg)


class Server(uvicorn.Server):
    """uvicorn's, which accepts from `listener` by itself."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, connections: Connections) -> None:
        super().__init__(config)
        self.listener, self.connections = listener, connections
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # uvicorn accepts from none
        self.listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._accepting.cancel()
        self.listener.close()
        await super().shutdown(sockets)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listener)
            except OSError:
                await asyncio.sleep(PAUSE)
                continue
            visit = self.connections.enter(connection, str(address[0]))
            handshake = loop.create_task(self._shake_hands(visit))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, visit: Visit) -> None:
        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = Protocol(
                config=self.config, server_state=self.server_state, app_state={"visit": visit}
            )
            return made

        patience = self.connections.limits.patience
        try:
            visit.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                visit.connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=patience,
                ssl_shutdown_timeout=patience,
            )
        except OSError:  # of all kinds: it went, or does not speak TLS, or does not like our certificate
            self.connections.leave(visit)


def listen(host: str, port: int) -> socket.socket:
    return socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
    )
