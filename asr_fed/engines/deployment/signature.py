"""Who sends a request to the proxy: Flower's SuperNodes, and our nodes, sign a timestamp with their key, in three
headers.

It is checked before a byte of the body is read, against the keys that the operator has registered. The signature covers
the time alone, so that what a body says is still for the SuperLink to check.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from asr_fed.system.errors import UserError
from asr_fed.wire.members import MEMBERS, read_members

KEY, SIGNATURE, TIME = "flwr-public-key", "flwr-signature", "flwr-timestamp"
MEMBER = "/member"  # of the proxy: under what name the key that signed the request is registered
OLDEST, NEWEST = 310.0, -10.0  # seconds that a signed time may lie back: Flower's own, and clocks differ
LONGEST = 4096  # characters of a header


class Stranger(Exception):
    """The request is not signed by a registered key; the text says why."""


@dataclass
class Registered:
    """Names by key, as MEMBERS in `folder` has them now; without that file any key passes: the SuperLink decides."""

    folder: Path
    _read: tuple[int, dict[bytes, str]] | None = field(default=None, init=False)

    def name(self, key: ec.EllipticCurvePublicKey) -> str:
        """Raises Stranger."""
        path = self.folder / MEMBERS
        if not path.is_file():
            return "?"
        changed = path.stat().st_mtime_ns
        if self._read is None or self._read[0] != changed:
            members = (read_members(self.folder) or {}).values()
            keys = {load_ssh_public_key(each.key.encode()).public_bytes(*AS): each.name for each in members if each.key}
            self._read = changed, keys
        name = self._read[1].get(key.public_bytes(*AS))
        if name is None:
            raise Stranger("a key that is not registered")
        return name


AS = Encoding.DER, PublicFormat.SubjectPublicKeyInfo


def sender(headers: Mapping[str, str], registered: Registered) -> str:
    """The name of the node that signed these headers. Raises Stranger."""
    try:
        given = [headers[name] for name in (KEY, SIGNATURE, TIME)]
    except KeyError:
        raise Stranger("no signature") from None
    if max(map(len, given)) > LONGEST:
        raise Stranger("a signature that is too long")
    try:
        key = load_pem_public_key(base64.b64decode(given[0], validate=True))
        signature = base64.b64decode(given[1], validate=True)
        age = (datetime.now(UTC) - datetime.fromisoformat(given[2])).total_seconds()
    except Exception as error:  # forged headers can fail in many ways
        raise Stranger("a signature that cannot be read") from error
    if not NEWEST < age < OLDEST:
        raise Stranger(f"a signature of {age:.0f} s ago: do the clocks differ?")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Stranger("a key of another kind")
    name = registered.name(key)
    try:
        key.verify(signature, given[2].encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, UnicodeError):
        raise Stranger(f"a signature that is not {name}'s") from None
    return name


def sign(path: Path) -> dict[str, str]:
    """The headers of the node whose private key is in this file. Raises UserError where it holds none."""
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} is no private key of a node (python -m asr_fed.deployment key): {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path} is a key of another kind than python -m asr_fed.deployment key makes.")
    at = datetime.now(UTC).isoformat()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(at.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return {KEY: base64.b64encode(public).decode(), SIGNATURE: base64.b64encode(signature).decode(), TIME: at}
