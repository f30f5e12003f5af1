"""What a node finds before it can take part, against real listeners with TLS: the command check, and waiting."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asr_fed.commands.deployment import main
from asr_fed.data.manifest import Utterance, read_manifest, write_manifest
from asr_fed.engines.deployment import node as node_module
from asr_fed.engines.deployment.credentials import make_certificates, make_node_key, renew_certificate
from asr_fed.engines.deployment.door import LONGEST_PAUSE, Waiting
from asr_fed.engines.deployment.node import run_node
from asr_fed.engines.deployment.proxy import make_server
from asr_fed.engines.deployment.settings import read_settings
from asr_fed.wire.members import Member, write_members
from tests.engines.deployment.machine import free_port
from tests.engines.deployment.serving import running, serving


def superlink(status: int = 200) -> Starlette:
    async def answer(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("here", status)

    return Starlette(routes=[Route("/health", answer)])


@dataclass
class Silo:
    """The folder of a node, and that of its server's certificates."""

    folder: Path
    certificates: Path
    port: int

    def write(self, **changes: Any) -> Path:
        content = {
            **{"name": "clinic", "superlink": f"localhost:{self.port}", "folder": "state"},
            **{"certificate": str(self.certificates / "ca.crt"), "key": "key", "manifest": "manifest.csv"},
        }
        path = self.folder / "node.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (content | changes).items() if v is not None}))
        return path

    def register(self, name: str = "clinic") -> None:
        write_members(self.certificates, {1: Member(name, key=(self.folder / "key.pub").read_text())})

    @contextmanager
    def server(self) -> Iterator[None]:
        """The proxy, before a SuperLink that is well."""
        inner = free_port()
        with (
            serving(superlink(), inner, self.certificates),
            running(make_server("127.0.0.1", self.port, inner, self.certificates), self.port),
        ):
            yield


@pytest.fixture
def silo(tmp_path: Path) -> Silo:
    """All is well with it; its server does not run yet."""
    certificates, folder = tmp_path / "server", tmp_path / "clinic"
    make_certificates(certificates, [])
    make_node_key(folder / "key")
    (folder / "clip.wav").touch()
    speech = [Utterance(f"u{n}", 2.0, str(folder / "clip.wav"), f"s{n % 2}", "oui") for n in range(20)]
    write_manifest(folder / "manifest.csv", speech)
    silo = Silo(folder, certificates, free_port())
    silo.register()
    silo.write()
    return silo


class Checked(dict[str, tuple[str, str]]):
    """Word and text by what was tried; `status` is that of the command."""

    status: int


@pytest.fixture
def check(silo: Silo, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(path: Path | None = None) -> Checked:
        capsys.readouterr()
        status = main(["check", str(path or silo.folder / "node.yaml")])
        lines = capsys.readouterr().out.splitlines()
        found = Checked((line[7:17].strip(), (line[:7].strip(), line[17:])) for line in lines)
        assert len(found) == len(lines) and all(line.isprintable() for line in lines), lines
        assert status == any(word == "FAULT" for word, _ in found.values())
        found.status = status
        return found

    return call


def test_a_node_with_which_all_is_well(silo: Silo, check: Any) -> None:
    with silo.server():
        found = check()
    assert found.status == 0 and {word for word, _ in found.values()} == {"ok"}
    assert list(found) == ["settings", "name", "port", "TLS", "clock", "key", "manifest", "disk", "policy"]
    assert found["key"][1] == "registered as clinic" and "364 days" in found["TLS"][1]
    assert "20 utterances, 2 speakers" in found["manifest"][1]


def test_a_manifest_may_lack_transcripts_and_how_many_is_told(silo: Silo, check: Any) -> None:
    """Whether the experiment takes them the node does not know before it is given one."""
    path = silo.folder / "manifest.csv"
    write_manifest(path, [replace(u, text="") if u.speaker == "s0" else u for u in read_manifest(path)])
    found = check()
    assert found["manifest"][0] == "ok" and found["manifest"][1].endswith(", 10 utterances without transcript")


def faults(found: Checked) -> dict[str, str]:
    return {what: text for what, (word, text) in found.items() if word == "FAULT"}


def test_a_name_that_nobody_has(silo: Silo, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = check(silo.write(superlink="asr.exmple.org:8443"))
    assert "no machine has the name asr.exmple.org" in faults(found)["name"]
    assert found["port"] == found["TLS"] == found["clock"] == found["key"] == ("-", "not tried")


def test_a_port_at_which_nothing_listens(check: Any) -> None:
    assert "the connection is refused" in faults(check())["port"]


def test_a_port_that_does_not_speak_tls(silo: Silo, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_fed.engines.deployment.door.ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", silo.port)):  # the system takes connections, and nobody answers
        found = check()
    assert "does not speak TLS" in faults(found)["TLS"]


def test_a_server_of_another_ca(silo: Silo, check: Any, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", [])
    with silo.server():
        found = check(silo.write(certificate=str(tmp_path / "other" / "ca.crt")))
    assert "of another CA than" in faults(found)["TLS"] and found["key"] == ("-", "not tried")


def test_a_ca_that_is_no_certificate(silo: Silo, check: Any) -> None:
    (silo.folder / "ca.crt").write_text("ask Anna")
    with silo.server():
        assert "ca.crt is no certificate" in faults(check(silo.write(certificate="ca.crt")))["TLS"]


def test_a_certificate_for_another_name(silo: Silo, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def elsewhere(host: str, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1" if host == "asr.example.org" else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", elsewhere)
    with silo.server():
        found = check(silo.write(superlink=f"asr.example.org:{silo.port}"))
    assert "not for asr.example.org" in faults(found)["TLS"]


def test_a_certificate_that_has_expired(silo: Silo, check: Any) -> None:
    renew_certificate(silo.certificates, [], days=0)
    with silo.server():
        assert "has expired" in faults(check())["TLS"]


def test_a_certificate_that_ends_soon(silo: Silo, check: Any) -> None:
    renew_certificate(silo.certificates, [], days=20)
    with silo.server():
        found = check()
    assert found.status == 0 and "19 days: its operator renews it before" in found["TLS"][1]


def test_a_key_that_is_not_registered(silo: Silo, check: Any) -> None:
    write_members(silo.certificates, {})
    with silo.server():
        told = faults(check())["key"]
    assert "a key that is not registered" in told and f"registers {silo.folder / 'key'}.pub" in told


def test_a_key_that_is_registered_under_another_name(silo: Silo, check: Any) -> None:
    silo.register("school")
    with silo.server():
        assert faults(check())["key"] == "the server has this key as school, and this node is called clinic"


def test_a_key_that_others_can_read_or_that_is_none(silo: Silo, check: Any) -> None:
    (silo.folder / "key").chmod(0o644)
    with silo.server():
        assert "others can read this private key" in faults(check())["key"]
        (silo.folder / "key").chmod(0o600)
        (silo.folder / "key").write_text("no key")
        assert "is no private key of a node" in faults(check())["key"]
        (silo.folder / "key").unlink()
        assert f"there is no {silo.folder / 'key'}" in faults(check())["key"]


@pytest.mark.parametrize(
    ("date", "told"), [("Thu, 01 Jan 2026 00:00:00 GMT", "ahead"), ("Wed, 01 Jan 2098 00:00:00 GMT", "behind")]
)
def test_a_clock_that_is_wrong(silo: Silo, check: Any, date: str, told: str) -> None:
    async def member(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("a signature of another day", 401, headers={"date": date})

    app = Starlette(routes=[Route("/member", member)])
    with serving(app, silo.port, silo.certificates, date_header=False):
        found = check()
    assert told in faults(found)["clock"] and found["key"] == ("-", "not tried")


def test_a_proxy_without_its_superlink(silo: Silo, check: Any) -> None:
    with running(make_server("127.0.0.1", silo.port, free_port(), silo.certificates), silo.port):
        assert "the SuperLink is not there" in faults(check())["key"]


def test_speech_disk_and_policy(silo: Silo, check: Any) -> None:
    with silo.server():
        (silo.folder / "clip.wav").unlink()
        assert "20 recordings cannot be read, such as" in faults(check())["manifest"]
        (silo.folder / "clip.wav").touch()
        few = faults(check(silo.write(policy={"utterances": 21})))
        assert list(few) == ["policy"] and "0 of 1 client(s) have at least 21 utterances" in few["policy"]
        each = faults(check(silo.write(clients="speaker")))
        assert "0 of 2 client(s) have at least 20 utterances" in each["policy"]
        assert "trust is empty" in faults(check(silo.write(trust=[])))["policy"]
        (silo.folder / "state" / "features").write_bytes(bytes(2000))
        assert "remove features/" in faults(check(silo.write(policy={"gigabytes": 1e-6})))["disk"]
        lost = check(silo.write(manifest="gone.csv"))
        assert list(faults(lost)) == ["manifest"] and lost["policy"] == ("-", "not tried")


def test_settings_that_cannot_be_read(silo: Silo, check: Any) -> None:
    found = check(silo.write(manifst="x"))
    assert list(found) == ["settings"] and "Did you mean 'manifest'" in faults(found)["settings"]


def test_pauses_grow_up_to_a_minute_and_begin_again() -> None:
    said: list[str] = []
    waiting = Waiting(said.append)
    pauses = [waiting.because("the server is not running") for _ in range(7)]
    assert pauses == sorted(pauses) and pauses[0] < 5 and pauses[-1] == pauses[-2] == LONGEST_PAUSE
    assert said[0] == "waiting: the server is not running. Trying again in 2 s"
    waiting.over()
    assert waiting.because("x") == pauses[0]


class Enough(Exception):
    pass


def test_a_node_waits_until_it_is_let_in(
    silo: Silo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is registered while it waits; the SuperLink is one that is not let in at first."""
    write_members(silo.certificates, {})
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            silo.register()
        if len(pauses) == 3:
            raise Enough

    def run(settings: Any, resident: Any, log: Path, *_: Any) -> int:
        log.write_text("Failed to activate SuperNode")
        return 1

    monkeypatch.setattr(node_module, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
    monkeypatch.setattr(node_module, "_run_supernode", run)
    with silo.server(), pytest.raises(Enough):
        run_node(read_settings(silo.folder / "node.yaml"))
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert pauses == [2, 4, 10] and "looking for the server" in said[0]
    assert "a key that is not registered" in said[1] and "a key that is not registered" in said[2]
    assert "believes that this node is there already" in said[3]


def test_a_node_whose_supernode_was_killed_is_started_again_by_its_service(
    silo: Silo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 would say that its owner has something to correct, and end the service."""

    def run(settings: Any, resident: Any, log: Path, *_: Any) -> int:
        log.write_text("its last words")
        return -9

    monkeypatch.setattr(node_module, "_run_supernode", run)
    with silo.server():
        assert main(["node", str(silo.folder / "node.yaml")]) == 1
    told = capsys.readouterr().err
    assert "The SuperNode ended (exit code -9)" in told and "its last words" in told
