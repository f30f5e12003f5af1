"""Credentials: a certificate by which nodes recognise the server, and key pairs by which the server recognises
nodes."""

import ipaddress
import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from asr_fed.system.errors import UserError

ALWAYS = ("localhost", "127.0.0.1", "::1")  # names that the server uses for itself
CERTIFICATES = ("ca.crt", "server.crt", "server.key")


def ca_folder(folder: Path) -> Path:
    """Where ca.key stays: beside `folder`, not in it, since a running server reads that one."""
    return folder.absolute().with_name(f"{folder.absolute().name}-ca")


def make_certificates(folder: Path, hosts: Iterable[str], days: int = 365) -> None:
    """Write ca.crt, server.crt and server.key to `folder`, and ca.key to `ca_folder(folder)`.

    Nodes need ca.crt, the server the other two. Keep ca.key offline: whoever has it can impersonate the server.

    Args:
        hosts: names and addresses under which nodes reach the server, besides localhost.
        days: how long the server's certificate is valid; the CA's ten times as long.

    Raises UserError where one of the files is there already.
    """
    key_file = ca_folder(folder) / "ca.key"
    _refuse_existing([*(folder / name for name in CERTIFICATES), key_file])
    ca_key = ec.generate_private_key(ec.SECP384R1())
    name = _name("asr_fed federation")
    public = ca_key.public_key()
    ca = (
        _builder(name, name, public, 10 * days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    _write_private(key_file, _pem(ca_key))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    _server_certificate(folder, ca, ca_key, hosts, days)


def renew_certificate(folder: Path, hosts: Iterable[str], days: int = 365) -> None:
    """A new server.crt and server.key in `folder`, of the same CA: nodes have nothing to do.

    Raises UserError where ca.crt or ca.key is missing, or they do not belong together.
    """
    key_file = ca_folder(folder) / "ca.key"
    for path in (folder / "ca.crt", key_file):
        if not path.is_file():
            raise UserError(f"There is no {path}: bring it back from where it is kept, for this command alone.")
    check_private(key_file)
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or ca_key.public_key() != ca.public_key():
        raise UserError(f"{key_file} is not the key of {folder / 'ca.crt'}.")
    with TemporaryDirectory(dir=folder) as place:
        _server_certificate(Path(place), ca, ca_key, hosts, days)
        for name in ("server.key", "server.crt"):
            (Path(place) / name).replace(folder / name)


def check_private(path: Path) -> None:
    """Raises UserError where others than its owner may read or change this file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UserError(f"{path} has mode {mode:o}: others can read this private key. Run: chmod 600 {path}")


def make_node_key(path: Path) -> Path:
    """Write a private key to `path` and its public half to `path`.pub, and return the latter.

    Both are in OpenSSH's format, on the curve P-384, as Flower requires. Raises UserError if a file exists already.
    """
    public = path.with_name(f"{path.name}.pub")
    _refuse_existing([path, public])
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return public


def _server_certificate(
    folder: Path, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, hosts: Iterable[str], days: int
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    names = [_host(host) for host in dict.fromkeys([*hosts, *ALWAYS])]
    certificate = (
        _builder(_name("asr_fed server"), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    _write_private(folder / "server.key", _pem(key))
    (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(minutes=5)  # clocks of machines differ
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**(dict.fromkeys(every, False) | wanted))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise UserError(f"{text!r} is neither a host name nor an address: {error}.") from None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Write with mode 0600 from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _refuse_existing(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UserError(
                f"{path} exists already and is not overwritten: nodes may rely on it. Remove it, or give another place."
            )
