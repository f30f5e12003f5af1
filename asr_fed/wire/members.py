"""What the operator of a server has said of each node when its key was registered: MEMBERS beside the certificates."""

import json
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

    `key` is the public one, in OpenSSH's format.
    """

    name: str
    clients: int = CLIENTS
    utterances: int = UTTERANCES
    key: str = ""


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


def check_member(member: Member, report: Report) -> None:
    """Raises Refused where a node reports more than its operator lets it, or goes by another's name.

    Its own clients have its name, or begin with it: whoever comes first cannot take another's.
    """
    if report.name != member.name:
        raise Refused(f"its key is that of {member.name}, and it calls itself {report.name}")
    if len(report.clients) > member.clients:
        raise Refused(f"{member.name} reports {len(report.clients)} clients, and is registered for {member.clients}")
    utterances = sum(client.examples for client in report.clients.values())
    if utterances > member.utterances:
        raise Refused(f"{member.name} reports {utterances} utterances, and is registered for {member.utterances}")
    if report.own:
        for client in report.clients:
            if client != member.name and not client.startswith(f"{member.name}-"):
                raise Refused(f"{member.name} reports a client {client!r:.80}, which is not its own name")
