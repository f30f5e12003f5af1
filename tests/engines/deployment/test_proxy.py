"""The proxy as a process of its own, before a server that notes what comes through."""

import contextlib
import datetime
import gzip
import json
import resource
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asr_fed.engines.deployment.connections import Limits
from asr_fed.engines.deployment.credentials import make_certificates, make_node_key
from asr_fed.engines.deployment.flower import end_process
from asr_fed.engines.deployment.proxy import LIMITS, run_proxy
from asr_fed.engines.deployment.signature import KEY, SIGNATURE, TIME
from asr_fed.wire.members import Member, read_members, write_members
from tests.engines.deployment.machine import free_port
from tests.engines.deployment.serving import serving, wait_for
from tests.waiting import PATIENCE, wait_until

LARGE = bytes(range(256)) * 20_000


@dataclass
class SuperLink:
    """Answers whatever it is asked, and notes it."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        methods = ["GET", "POST", "PUT", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        if request.url.path.endswith("packed"):
            return Response(gzip.compress(body), 200, {"content-encoding": "gzip"})
        refused = request.url.path.endswith("refused")
        return Response(body[::-1], 403 if refused else 200, {"x-flwr": "yes"}, "application/x-protobuf")


@dataclass
class House:
    """A proxy, and what is behind it."""

    certificates: Path
    port: int
    inner: int
    pid: int = 0  # of the proxy

    def signed(self, key: str = "clinic", age: float = 0.0) -> dict[str, str]:
        """What Flower's SuperNode adds to a request."""
        return signed(self.certificates / key, age)

    def client(self, headers: dict[str, str] | None = None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=context,
            timeout=PATIENCE,
            trust_env=False,
            headers=self.signed() if headers is None else headers,
        )

    def log(self) -> list[dict[str, Any]]:
        paths = sorted(self.certificates.glob("access.jsonl*"), reverse=True)
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def told(self, status: int) -> list[dict[str, Any]]:
        return [entry for entry in self.log() if entry["status"] == status]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def shake_hands(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
        return context.wrap_socket(self.connect(), server_hostname="127.0.0.1")


def signed(path: Path, age: float) -> dict[str, str]:
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    at = (now() - datetime.timedelta(seconds=age)).isoformat()
    return {
        KEY: b64encode(public_key_to_bytes(key.public_key())).decode(),
        SIGNATURE: b64encode(sign_message(key, at.encode())).decode(),
        TIME: at,
    }


@contextlib.contextmanager
def opened(folder: Path, limits: Limits) -> Iterator[House]:
    make_certificates(folder, [])
    key = make_node_key(folder / "clinic").read_text()
    other = make_node_key(folder / "school").read_text()
    make_node_key(folder / "stranger")
    write_members(folder, {1: Member("clinic", key=key), 2: Member("school", key=other)})
    port, inner = free_port(), free_port()
    process = get_context("spawn").Process(
        target=run_proxy, args=("127.0.0.1", port, inner, folder, folder / "proxy.log", limits), name="proxy"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard - 1), hard))
    try:
        process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        wait_for(port)
        yield House(folder, port, inner, int(process.pid or 0))
    finally:
        end_process(process)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("proxy"), LIMITS) as house:
        yield house


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    limits = Limits(strangers=4, of_member=2, told_every=0.1, log_bytes=1000, logs=2)
    with opened(tmp_path_factory.mktemp("small"), limits) as house:
        yield house


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("hasty"), Limits(patience=3.0, body_seconds=1.0, told_every=0.1)) as house:
        yield house


@pytest.fixture
def superlink(house: House) -> Iterator[SuperLink]:
    superlink = SuperLink()
    with serving(superlink.app, house.inner, house.certificates):
        yield superlink


@pytest.fixture
def superlink_of_small(small: House) -> Iterator[SuperLink]:
    superlink = SuperLink()
    with serving(superlink.app, small.inner, small.certificates):
        yield superlink


def test_what_nodes_say_goes_through_and_the_answer_comes_back(house: House, superlink: SuperLink) -> None:
    with house.client() as client:
        typed = {"content-type": "application/x-protobuf"}
        answer = client.post("/v1/fleet/push-messages", content=LARGE, headers=typed)
        refused = client.post("/v1/fleet/refused", content=b"ab")
        packed = client.post("/v1/fleet/packed", content=LARGE)
    assert (answer.status_code, answer.content) == (200, LARGE[::-1])
    assert answer.headers["x-flwr"] == "yes" and answer.headers["content-type"] == "application/x-protobuf"
    assert (refused.status_code, refused.content) == (403, b"ba")
    assert packed.content == LARGE
    method, path, headers, body = superlink.seen[0]
    assert (method, path, body) == ("POST", "/v1/fleet/push-messages", LARGE)
    assert headers[SIGNATURE] and headers["host"] == f"127.0.0.1:{house.inner}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/control/start-run", 404),
        ("POST", "/v1/control/register-node", 404),
        ("POST", "/v1/runtime/acquire-task", 404),
        ("POST", "/v1/fleet", 404),
        ("POST", "/v1/fleet/", 404),
        ("POST", "/v1/fleet/../control/start-run", 404),
        ("POST", "/v1/fleet/..%2fcontrol%2fstart-run", 404),
        ("POST", "/v1/fleet/%2e%2e", 404),
        ("POST", "/v1/fleet/..", 404),
        ("POST", "//v1/fleet/activate-node", 404),
        ("POST", "/v1/fleet/activate-node/", 404),
        ("POST", "/v1/fleet/activate-node%0a", 404),
        ("POST", "/v1/fleet/Activate", 404),
        ("POST", "/v1/fleet/activate;x", 404),
        ("POST", "/v1/fleet/activate%3Fx", 404),
        ("POST", "/flwr.proto.Control/StartRun", 404),
        ("GET", "/health", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/fleet/activate-node", 405),
        ("PUT", "/v1/fleet/activate-node", 405),
        ("DELETE", "/v1/fleet/activate-node", 405),
    ],
)
def test_nothing_else_goes_through(house: House, superlink: SuperLink, method: str, path: str, status: int) -> None:
    assert raw(house, method, path) == status
    assert superlink.seen == []
    assert (house.log()[-1]["status"], house.log()[-1]["peer"]) == (status, "127.0.0.1")


def test_a_query_does_not_go_along(house: House, superlink: SuperLink) -> None:
    assert raw(house, "POST", "/v1/fleet/activate-node?next=/v1/control/start-run") == 200
    assert [path for _, path, _, _ in superlink.seen] == ["/v1/fleet/activate-node"]


def raw(house: House, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    """The status, without any body, and with the path as it is: clients tidy it up."""
    headers = house.signed() | {"Content-Length": "0"} if headers is None else headers
    with house.shake_hands() as shaken:
        shaken.sendall(head(method, path, headers | {"Connection": "close"}))
        return int(shaken.recv(4096).split()[1])


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode()


def test_a_superlink_that_is_away(house: House) -> None:
    with house.client() as client:
        answer = client.post("/v1/fleet/activate-node", content=b"x")
        assert (answer.status_code, answer.text) == (503, "the SuperLink is not there")
        with serving((superlink := SuperLink()).app, house.inner, house.certificates):
            assert client.post("/v1/fleet/activate-node", content=b"x").status_code == 200
    assert len(superlink.seen) == 1


def test_a_stranger_in_the_superlinks_place_is_given_nothing(house: House, tmp_path: Path) -> None:
    make_certificates(tmp_path, [])
    with serving((stranger := SuperLink()).app, house.inner, tmp_path), house.client() as client:
        assert client.post("/v1/fleet/activate-node", content=b"secret").status_code == 503
    assert stranger.seen == []


def test_the_proxy_speaks_nothing_but_tls(house: House) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"http://127.0.0.1:{house.port}/v1/fleet/activate-node", timeout=PATIENCE, trust_env=False)


def test_the_headers_are_flowers_own() -> None:
    assert (KEY, SIGNATURE, TIME) == (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)


def forged(house: House) -> dict[str, dict[str, str]]:
    """Headers of whoever is not registered."""
    good, stranger = house.signed(), house.signed("stranger")
    return {
        "no signature": {},
        "not registered": stranger,
        "not clinic's": good | {SIGNATURE: stranger[SIGNATURE]},
        "s ago": house.signed(age=400),
        "cannot be read": good | {KEY: "AAAA"},
        "too long": good | {SIGNATURE: "A" * 5000},
    }


@pytest.mark.parametrize(
    "told", ["no signature", "not registered", "not clinic's", "s ago", "cannot be read", "too long"]
)
def test_a_strangers_body_is_not_waited_for(house: House, superlink: SuperLink, told: str) -> None:
    """700 MiB without a key made the SuperLink 1.4 GB larger. Here they are announced, and the answer comes at once."""
    headers = forged(house)[told] | {"Content-Length": str(700 << 20)}
    assert raw(house, "POST", "/v1/fleet/push-object", headers) == 401
    assert superlink.seen == []
    last = house.log()[-1]
    assert (last["node"], last["status"], last["path"]) == ("?", 401, "/v1/fleet/push-object")
    assert told in last["reason"]


def test_a_members_body_has_a_limit_too(house: House, superlink: SuperLink) -> None:
    with house.client() as client:
        for body in (bytes(LIMITS.body + 1), iter([bytes(LIMITS.body), b"x"])):
            with contextlib.suppress(httpx.TransportError):
                assert client.post("/v1/fleet/push-object", content=body).status_code == 413
            assert house.log()[-1]["status"] == 413 and house.log()[-1]["node"] == "clinic"
    assert superlink.seen == []


def test_a_key_that_is_removed_opens_nothing_from_then_on(house: House, superlink: SuperLink) -> None:
    members = read_members(house.certificates) or {}
    with house.client() as client:
        assert client.post("/v1/fleet/activate-node", content=b"x").status_code == 200
        assert house.log()[-1] | {"time": 0} == {
            **{"time": 0, "peer": "127.0.0.1", "node": "clinic", "path": "/v1/fleet/activate-node"},
            **{"status": 200, "reason": ""},
        }
        write_members(house.certificates, {})
        try:
            assert client.post("/v1/fleet/activate-node", content=b"x").status_code == 401
        finally:
            write_members(house.certificates, members)


def test_a_node_can_ask_who_it_is(house: House) -> None:
    with house.client() as client, house.client(house.signed("stranger")) as stranger:
        assert client.get("/member").status_code == 503
        with serving((superlink := SuperLink()).app, house.inner, house.certificates):
            answer, refused = client.get("/member"), stranger.get("/member")
    assert (answer.status_code, answer.text) == (200, "clinic")
    assert (refused.status_code, refused.text) == (401, "a key that is not registered")
    assert {path for _, path, _, _ in superlink.seen} == {"/health"}


def test_health_is_that_of_the_superlink(house: House) -> None:
    with house.client({}) as client:
        assert client.get("/healthz").status_code == 503
        with serving(SuperLink().app, house.inner, house.certificates):
            assert client.get("/healthz").status_code == 200


def closed(connection: socket.socket) -> bool:
    """Whether the other side closes it before it says a word."""
    try:
        return connection.recv(1) == b""
    except OSError as error:
        return not isinstance(error, TimeoutError)


@pytest.mark.parametrize("tls", [False, True])
def test_silence_keeps_nobody_out(small: House, superlink_of_small: SuperLink, tls: bool) -> None:
    """512 connections that said nothing had every node turned away, for as long as they liked."""
    with contextlib.ExitStack() as held:
        silent = [held.enter_context(small.shake_hands() if tls else small.connect()) for _ in range(7)]
        assert all(closed(connection) for connection in silent[:3]), "there is room for four"
        with small.client() as client:
            assert client.post("/v1/fleet/push-object", content=b"x").status_code == 200
        assert closed(silent[3]), "it gave its place to the node"
    wait_until(lambda: sum(entry["connections"] for entry in small.told(503)) >= 4, small.log)
    assert {entry["peer"] for entry in small.told(503)} == {"127.0.0.1"}


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells of another process")
def test_there_are_file_descriptors_for_all_that_may_come(small: House) -> None:
    soft, hard = resource.prlimit(small.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_who_says_too_little_is_left(hasty: House) -> None:
    """The first byte may be long in coming, and the last header; also of a member that had an answer before."""
    signed = head("POST", "/v1/fleet/push-object", hasty.signed() | {"Content-Length": "0"})
    with (
        serving(SuperLink().app, hasty.inner, hasty.certificates),
        hasty.connect() as mute,
        hasty.shake_hands() as silent,
        hasty.shake_hands() as slow,
        hasty.shake_hands() as member,
    ):
        slow.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nfirst: ")
        member.sendall(signed)
        assert member.recv(4096).split()[1] == b"200"
        member.sendall(signed[:-2])
        assert all(closed(connection) for connection in (mute, silent, slow, member))
    wait_until(lambda: sum(entry.get("connections", 0) for entry in hasty.told(408)) == 3, hasty.log)
    assert hasty.told(408)[0]["reason"] == "no signed request within 3 s"


def test_a_body_that_does_not_come_to_its_end(hasty: House) -> None:
    """Where it is not waited for as long as its sender likes."""
    asked = head("POST", "/v1/fleet/push-object", hasty.signed() | {"Content-Length": "10"})
    with serving(SuperLink().app, hasty.inner, hasty.certificates), hasty.shake_hands() as slow:
        slow.sendall(asked + b"half")
        assert slow.recv(4096).split()[1] == b"408"
    last = hasty.log()[-1]
    assert (last["node"], last["status"], last["reason"]) == ("clinic", 408, "no whole body within 1 s")


def test_a_member_takes_no_more_connections_than_its_own(small: House, superlink_of_small: SuperLink) -> None:
    begun, empty = {"Content-Length": "10", "Expect": "100-continue"}, {"Content-Length": "0"}
    with contextlib.ExitStack() as held:
        for _ in range(2):
            waiting = held.enter_context(small.shake_hands())
            waiting.sendall(head("POST", "/v1/fleet/push-object", small.signed() | begun))
            assert waiting.recv(4096).split()[1] == b"100"
        assert raw(small, "POST", "/v1/fleet/push-object", small.signed() | empty) == 429
        assert raw(small, "POST", "/v1/fleet/push-object", small.signed("school") | empty) == 200
    assert (small.told(429)[-1]["node"], small.told(429)[-1]["reason"]) == ("clinic", "more than 2 connections")
    wait_until(lambda: raw(small, "POST", "/v1/fleet/push-object", small.signed() | empty) == 200, small.log)


def test_the_log_keeps_to_its_size(small: House) -> None:
    for number in range(16):
        assert raw(small, "GET", f"/{number}/{'x' * 200}", {}) == 404
    logs = sorted(small.certificates.glob("access.jsonl*"))
    assert [path.name for path in logs] == ["access.jsonl", "access.jsonl.1", "access.jsonl.2"]
    assert all(path.stat().st_size <= 1000 for path in logs)
    assert small.log()[-1]["path"].startswith("/15/x")


def test_words_that_are_no_request_are_noted(hasty: House) -> None:
    with hasty.shake_hands() as shaken:
        shaken.sendall(b"\x16\x03 hello\r\n\r\n")
        assert shaken.recv(4096).split()[1] == b"400"
    wait_until(lambda: hasty.told(400), hasty.log)
