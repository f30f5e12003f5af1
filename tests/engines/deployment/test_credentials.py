"""Keys and certificates, as TLS and Flower itself take them."""

import argparse
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from asr_fed.commands.deployment import main
from asr_fed.engines.deployment.credentials import (
    CERTIFICATES,
    ca_folder,
    check_private,
    make_certificates,
    make_node_key,
    renew_certificate,
)
from asr_fed.engines.deployment.signature import Registered, Stranger, sender, sign
from asr_fed.engines.deployment.superlink import SuperLink, running
from asr_fed.system.errors import UserError
from asr_fed.wire.members import MEMBERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "made on the way"
    make_certificates(folder, ["asr.example.org", "10.1.2.3", "127.0.0.1"])
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with tls_server(folder) as port:
        yield port


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """A loopback port where the server's certificate is shown to whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as shaken:
                        shaken.recv(1)
                except OSError:  # the client refused
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert not thread.is_alive()


def shake_hands(port: int, host: str, ca: Path) -> None:
    """Come as a client that was told to reach `host`."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as shaken,
    ):
        shaken.send(b"x")


@pytest.mark.parametrize("host", ["asr.example.org", "10.1.2.3", "127.0.0.1", "localhost", "::1"])
def test_the_server_is_known_under_its_hosts(folder: Path, port: int, host: str) -> None:
    shake_hands(port, host, folder / "ca.crt")


@pytest.mark.parametrize("host", ["example.org", "other.example.org", "10.1.2.4", "127.0.0.2"])
def test_the_server_is_not_known_under_others(folder: Path, port: int, host: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        shake_hands(port, host, folder / "ca.crt")


def test_another_federations_ca_does_not_do(port: int, tmp_path: Path) -> None:
    make_certificates(tmp_path, [])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(port, "localhost", tmp_path / "ca.crt")


def test_private_files_are_for_their_owner_alone(folder: Path, tmp_path: Path) -> None:
    make_node_key(tmp_path / "key")
    for path in (ca_folder(folder) / "ca.key", folder / "server.key", tmp_path / "key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert b"PRIVATE KEY" in path.read_bytes()
    for path in (folder / "ca.crt", folder / "server.crt", tmp_path / "key.pub"):
        assert b"PRIVATE" not in path.read_bytes()


def test_whatever_a_command_writes_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert main(["certificates", str(tmp_path / "made")]) == main(["key", str(tmp_path / "key")]) == 0
    finally:
        os.umask(before)
    written = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")}
    assert written.keys() >= {"made", "ca.crt", MEMBERS, "key.pub"} and not any(written.values()), written


@pytest.mark.parametrize("name", CERTIFICATES)
def test_certificates_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists already"):
        make_certificates(tmp_path, [])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("name", ["key", "key.pub"])
def test_a_nodes_key_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists already"):
        make_node_key(tmp_path / "key")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_host_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a host name nor an address"):
        make_certificates(tmp_path, ["münchen.example"])


def test_flower_takes_a_nodes_key(tmp_path: Path) -> None:
    public = make_node_key(tmp_path / "keys" / "clinic.key")
    assert public == tmp_path / "keys" / "clinic.key.pub"
    given = argparse.Namespace(
        auth_supernode_private_key=str(tmp_path / "keys" / "clinic.key"), auth_supernode_public_key=None
    )
    loaded = _try_setup_client_authentication(given)
    assert loaded is not None
    # What `flwr supernode register` tells the SuperLink of the public file is the half of the private one.
    assert try_load_public_key(public) == public_key_to_bytes(loaded[1])


def test_the_key_of_the_ca_is_kept_apart(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"ca.crt", "server.crt", "server.key"}
    assert ca_folder(folder).parent == folder.parent


def test_a_new_server_lets_no_key_in(tmp_path: Path) -> None:
    """Without a list of keys its proxy passes on whatever is signed with any key."""
    assert main(["certificates", str(tmp_path / "certificates")]) == 0
    made = make_node_key(tmp_path / "key").with_suffix("")
    with pytest.raises(Stranger, match="not registered"):
        sender(sign(made), Registered(tmp_path / "certificates"))


def test_a_renewed_certificate_needs_nothing_of_the_nodes(tmp_path: Path) -> None:
    """They keep the ca.crt that they have."""
    folder = tmp_path / "certificates"
    make_certificates(folder, ["old.example.org"])
    known, before = (folder / "ca.crt").read_bytes(), (folder / "server.key").read_bytes()
    renew_certificate(folder, ["new.example.org"])
    assert (folder / "ca.crt").read_bytes() == known
    assert (folder / "server.key").read_bytes() != before
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600
    with tls_server(folder) as port:
        shake_hands(port, "new.example.org", folder / "ca.crt")
    (ca_folder(folder) / "ca.key").unlink()
    with pytest.raises(UserError, match=r"no .*ca\.key: bring it back"):
        renew_certificate(folder, [])


def test_another_cas_key_renews_nothing(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        make_certificates(tmp_path / name, [])
    (tmp_path / "theirs-ca" / "ca.key").replace(tmp_path / "ours-ca" / "ca.key")
    with pytest.raises(UserError, match="is not the key of"):
        renew_certificate(tmp_path / "ours", [])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    make_node_key(tmp_path / "key")
    check_private(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(UserError, match=f"chmod 600 {tmp_path}/key"):
        check_private(tmp_path / "key")


def test_a_superlink_does_not_run_beside_the_key_of_its_ca(tmp_path: Path) -> None:
    make_certificates(tmp_path / "certificates", [])
    (ca_folder(tmp_path / "certificates") / "ca.key").replace(tmp_path / "certificates" / "ca.key")
    with pytest.raises(UserError, match="holds ca.key"), running(SuperLink(tmp_path, tmp_path / "certificates")):
        pass
