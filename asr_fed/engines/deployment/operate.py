"""What the operator of a server does with it: admit nodes and remove them, see who is there, stop runs.

Behind each stands the command `flwr` of Flower, over the SuperLink's Control API on the server's loopback address.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asr_fed.engines.deployment.control import Listed, listed_nodes
from asr_fed.engines.deployment.flower import CONNECTION, flwr, write_connection
from asr_fed.system.errors import UserError
from asr_fed.wire.members import CLIENTS, UTTERANCES, Member, read_members, write_members

ALREADY = "already in use"  # in Flower's answer for a key that it knows


@dataclass(frozen=True)
class Operator:
    """`address` is host:port of the Control API, `certificates` the folder with ca.crt and the members' file."""

    address: str
    certificates: Path

    def register(
        self, key: Path, name: str, clients: int = CLIENTS, utterances: int = UTTERANCES, simulated: bool = False
    ) -> bool:
        """Admit the node with the public key in the file `key`; False where the SuperLink has it already, and only its
        name and limits change.

        Raises UserError where the key cannot be read or was unregistered, another node has the name, or the SuperLink
        cannot be reached.
        """
        if not key.is_file():
            raise UserError(f"There is no public key {key}. A node makes its own: python -m asr_fed.deployment key")
        member = Member(name, clients, utterances, key.read_text(encoding="utf-8").strip(), simulated)
        members = read_members(self.certificates) or {}
        if any(each.name == name and each.key != member.key for each in members.values()):
            raise UserError(f"{name} is the name of another key: choose another, or unregister that one first.")
        new = True
        with self._home() as home:
            try:
                node = int(flwr(home, "supernode", "register", str(key), CONNECTION, "--name", name)["node-id"])
            except UserError as error:
                if ALREADY not in str(error):
                    raise UserError(f"{key} was not registered at the SuperLink {self.address}: {error}") from error
                new, node = False, self._registered(key, member.key)
        others = {number: each for number, each in members.items() if each.key != member.key}
        write_members(self.certificates, {**others, node: member})
        return new

    def _registered(self, file: Path, key: str) -> int:
        """The node with this public key, perhaps one that an earlier version registered without a name."""
        nodes = [each for each in self._listed() if each.key.split() == key.split()[:2]]
        if not nodes or nodes[0].gone:
            raise UserError(
                f"{file} was unregistered at the SuperLink {self.address}, which takes no key twice. Its owner makes a "
                "new one: python -m asr_fed.deployment key"
            )
        return nodes[0].node

    def unregister(self, name: str) -> None:
        """Remove a node: its key opens nothing from now on, and cannot be registered again. A node without a name goes
        by its number. Raises UserError where there is none of that name.
        """
        members = read_members(self.certificates) or {}
        found = [node for node, member in members.items() if member.name == name]
        if not found:
            found = [each.node for each in self._listed() if str(each.node) == name and not each.gone]
        if not found:
            raise UserError(
                f"There is no node {name}. There are: {', '.join(sorted(m.name for m in members.values()))}"
            )
        with self._home() as home:
            for node in found:
                flwr(home, "supernode", "unregister", str(node), CONNECTION)
        write_members(self.certificates, {node: each for node, each in members.items() if node not in found})

    def nodes(self) -> list[str]:
        """A line for each node: its name, whether it is connected, and what it is registered for."""
        members = read_members(self.certificates) or {}
        return [_line(each, members.get(each.node)) for each in self._listed() if not each.gone]

    def runs(self) -> list[str]:
        """A line for each run that has not ended."""
        return [f"run {run['run-id']}: {run['status']} for {run['elapsed']}" for run in self._unfinished()]

    def stop(self) -> list[str]:
        """Stop the runs that have not ended; returns their ids. They can be resumed."""
        stopped = [run["run-id"] for run in self._unfinished()]
        with self._home() as home:
            for run in stopped:
                flwr(home, "stop", run, CONNECTION)
        return stopped

    def _unfinished(self) -> list[dict[str, Any]]:
        with self._home() as home:
            return [run for run in flwr(home, "ls", CONNECTION)["runs"] if not run["status"].startswith("finished")]

    def _listed(self) -> list[Listed]:
        return listed_nodes(self.address, self._certificate)

    @property
    def _certificate(self) -> Path:
        return self.certificates.absolute() / "ca.crt"

    @contextmanager
    def _home(self) -> Iterator[Path]:
        with TemporaryDirectory() as home:
            write_connection(Path(home), self.address, self._certificate)
            yield Path(home)


def _line(listed: Listed, member: Member | None) -> str:
    if member is None:
        return f"node {listed.node}: {listed.status}, registered without a name"
    kind = "simulated client(s)" if member.simulated else "client(s)"
    limits = f"at most {member.clients} {kind} and {member.utterances} utterances"
    return f"{member.name}: {listed.status}, {limits}"
