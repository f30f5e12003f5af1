"""What the operator of a server has said of each node when its key was registered: MEMBERS beside the certificates."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text
from asr_fed.wire.messages import Refused, Report

MEMBERS = "members.json"
CLIENTS, UTTERANCES = 1, 100_000  # unless the operator says otherwise


@dataclass(frozen=True)
class Member:
    """A node by its key: what it is called, and how many clients and utterances it may report at most.

    `key` is the public one, in OpenSSH's format. `simulated`: its clients may be simulated, and hosted by others too.
    """

    name: str
    clients: int = CLIENTS
    utterances: int = UTTERANCES
    key: str = ""
    simulated: bool = False


def read_members(folder: Path) -> dict[int, Member] | None:
    """By node id; None where nobody has been registered with a name. Raises UserError for a file of another kind."""
    path = folder / MEMBERS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {int(node): Member(**said) for node, said in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def write_members(folder: Path, members: dict[int, Member]) -> None:
    content = {str(node): asdict(member) for node, member in members.items()}
    write_text(folder / MEMBERS, json.dumps(content, indent=2) + "\n")


def check_member(node: int, members: Mapping[int, Member], report: Report) -> None:
    """Raises Refused where a node reports more than its operator lets it, or takes a name that is not its own.

    A client belongs to the member whose name it has, or begins with (`belongs_to`): nobody else may report it, also
    while that member is away. Simulated clients belong to nobody, and only a node that the operator registered for them
    may report any: who could choose would call another's client simulated.
    """
    if node not in members:
        raise Refused("the operator has registered its key without a name")
    member = members[node]
    if report.name != member.name:
        raise Refused(f"its key is that of {member.name}, and it calls itself {report.name}")
    if len(report.clients) > member.clients:
        raise Refused(f"{member.name} reports {len(report.clients)} clients, and is registered for {member.clients}")
    utterances = sum(client.examples for client in report.clients.values())
    if utterances > member.utterances:
        raise Refused(f"{member.name} reports {utterances} utterances, and is registered for {member.utterances}")
    if not report.own and not member.simulated:
        raise Refused(f"{member.name} reports simulated clients, and is registered without --simulated")
    names = {each.name for each in members.values()}
    for client in report.clients:
        owner = belongs_to(client, names)
        if owner not in ((member.name,) if report.own else (member.name, None)):
            whose = "is not its own name" if owner is None else f"belongs to {owner}"
            raise Refused(f"{member.name} reports a client {client!r:.80}, which {whose}")


def belongs_to(client: str, names: Collection[str]) -> str | None:
    """The name that `client` has, or begins with before a hyphen; the longest such one: clinic-b-0001 is clinic-b's,
    also where there is a clinic. None where there is no such name."""
    parts = client.split("-")
    beginnings = ("-".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in beginnings if name in names), None)
