"""Which node of a SuperLink has which key: its Control API says so, and the command `flwr` does not pass it on.

The names of Flower 1.41 used here are private; tests/engines/deployment/test_federation.py asks a live SuperLink.
"""

from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from asr_fed.system.errors import UserError

GONE = ("unregistered", "deleted")  # status of a node that was removed


@dataclass(frozen=True)
class Listed:
    """A node that was registered at some time; `key` is the public one, in OpenSSH's format."""

    node: int
    status: str
    key: str

    @property
    def gone(self) -> bool:
        return self.status in GONE


def listed_nodes(address: str, certificate: Path) -> list[Listed]:
    """All nodes of the SuperLink whose Control API is at `address`, removed ones too. Raises UserError where it does
    not answer."""
    interceptors = [RuntimeVersionHttpInterceptor(component_name="asr_fed")]
    try:
        client = ControlHttpClient.from_server_address(address, False, certificate.read_bytes(), interceptors)
        try:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        finally:
            client.close()
    except (OSError, httpx.HTTPError) as error:
        raise UserError(f"The SuperLink {address} did not list its nodes: {error}. Is it running?") from error
    return [Listed(node.node_id, node.status, _openssh(node.public_key)) for node in nodes]


def _openssh(pem: bytes) -> str:
    return load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
