"""Which nodes there are, and which clients each of them hosts."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flwr.app import Message
from torch import nn

from asr_fed.federation.shared_config import shared_config
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.wire.hosts import Hosts
from asr_fed.wire.joining import query_message, read_report
from asr_fed.wire.members import Member, check_member, read_members
from asr_fed.wire.messages import ClientSize, Refused, Report, SharedConfig
from asr_fed.wire.records import told

PAUSE = 0.2  # seconds between two checks for nodes
NAMED = 5  # nodes in one line
AGAIN = 60  # seconds after which a node that has not joined is asked again: it may have been repaired

log = logging.getLogger(__name__)


@dataclass
class Roster:
    """Nodes that have joined, with what they reported; a node may be away at times.

    A client that belongs to a node is trained there only. A simulated client may be hosted by many nodes. `members` is
    what the operator has said of each node with its key; None where there is no such list.
    """

    setup: SharedConfig
    nodes: dict[int, Report] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)
    clients: dict[str, ClientSize] = field(default_factory=dict)  # all that any node has ever hosted
    refused: dict[int, str] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)  # queries without an answer, and their nodes
    members: Callable[[], Mapping[int, Member] | None] = lambda: None
    there: set[int] = field(default_factory=set)  # connected, whether or not they have joined
    _asked_at: dict[int, float] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All clients, sorted. Sorted again only when there are more of them: there may be a million."""
        if len(self._names) != len(self.clients):
            self._names = sorted(self.clients)
        return self._names

    def hosts(self, client: str) -> list[int]:
        """The nodes that can train a client now."""
        return [node for node in sorted(self.online) if client in self.nodes[node].clients]

    def owner(self, client: str) -> int | None:
        """The node that the client belongs to, also while that is away; None where several nodes simulate it."""
        hosts = [node for node, report in self.nodes.items() if client in report.clients]
        return hosts[-1] if len(hosts) == 1 or (hosts and self.nodes[hosts[-1]].own) else None

    def refresh(self, hosts: Hosts) -> None:
        """Check who is there, ask new nodes for their clients, and read the answers that have arrived."""
        self.there = there = set(hosts.get_node_ids())
        now = time.monotonic()
        recently = {node for node, at in self._asked_at.items() if now - at < AGAIN}
        newcomers = there - self.nodes.keys() - recently
        if newcomers:
            self._asked_at |= dict.fromkeys(newcomers, now)
            queries = [query_message(node, self.setup) for node in sorted(newcomers)]
            self.asked |= dict(zip(hosts.send(queries), sorted(newcomers), strict=True))
        if self.asked:
            for answer in hosts.receive(list(self.asked)):
                if (node := self.asked.pop(answer.metadata.reply_to_message_id, None)) is not None:
                    self._admit(node, answer)
        self.online = there & self.nodes.keys()

    def describe(self, needed: int) -> str:
        """Who has joined, who is expected, and what keeps the others: one line for the operator who waits."""
        members = self.members() or {}
        known = {node: member.name for node, member in members.items()}
        known |= {node: report.name for node, report in self.nodes.items()}

        def named(nodes: Iterable[int], state: str) -> list[str]:
            names = sorted(known.get(node, f"node {node}") for node in nodes)
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            return [f"{', '.join(names[:NAMED])}{more} {state}"] if names else []

        preparing = (set(self.asked.values()) & self.there) - self.online
        away = members.keys() - self.there
        joined = f"{len(self.online)} of {needed} node{'s' if needed > 1 else ''} joined"
        refused = [f"{known.get(node, f'node {node}')} not admitted: {why}" for node, why in self.refused.items()]
        return ", ".join([joined, *named(preparing, "preparing"), *named(away, "not connected"), *refused])

    def _admit(self, node: int, answer: Message) -> None:
        try:
            if answer.has_error():
                raise Refused(told(answer.error.reason or "unknown error"))
            report = read_report(answer)
            if report.setup != self.setup.sha256:
                raise Refused("it has another config, tokenizer or frozen base than this run")
            if not report.clients:
                raise Refused("it hosts no client")
            if (members := self.members()) is not None:
                check_member(node, members, report)
            for other in self.online:
                shared = self.nodes[other].clients.keys() & report.clients.keys()
                if shared and (report.own or self.nodes[other].own):
                    raise Refused(f"{self.nodes[other].name} hosts {min(shared)} too, and it is not simulated")
        except Refused as refused:
            self.refused[node] = told(refused)
            log.warning("node %d was not admitted: %s", node, refused)
            return
        self.nodes[node] = report
        self.refused.pop(node, None)
        self.asked = {query: other for query, other in self.asked.items() if other != node}
        self.clients |= report.clients
        self.online.add(node)


def join(
    experiment: Experiment, hosts: Hosts, model: nn.Module | None = None, say: Callable[[str], None] = lambda text: None
) -> Roster:
    """Wait for all expected nodes; where nodes come and go, for the number in the config.

    `model` may have frozen parts. `say` is called with who is there, whenever that changes.
    """
    engine, setup = experiment.config.engine, shared_config(experiment, model)
    if hosts.expected is not None:
        return wait_for_nodes(hosts, setup, hosts.expected, seconds=None)
    members = (lambda: None) if engine.certificates is None else partial(read_members, Path(engine.certificates))
    return wait_for_nodes(hosts, setup, engine.nodes, engine.wait, members, say)


def wait_for_nodes(
    hosts: Hosts,
    setup: SharedConfig,
    needed: int,
    seconds: float | None,
    members: Callable[[], Mapping[int, Member] | None] = lambda: None,
    say: Callable[[str], None] = lambda text: None,
) -> Roster:
    """The roster, once `needed` nodes have joined and all that are there have answered.

    Raises UserError if that takes longer than `seconds`; with None, if all have answered and they are too few.
    """
    roster, deadline = Roster(setup, members=members), None if seconds is None else time.monotonic() + seconds
    said = ""
    while True:
        roster.refresh(hosts)
        if (text := roster.describe(needed)) != said:
            say(said := text)
        late = not roster.asked if deadline is None else time.monotonic() > deadline
        if len(roster.online) >= needed and (late or not roster.asked):
            return roster
        if late:
            raise UserError(_missing(roster, needed, seconds))
        time.sleep(PAUSE)


def _missing(roster: Roster, needed: int, seconds: float | None) -> str:
    text = f"{len(roster.online)} of {needed} node(s) joined" + ("" if seconds is None else f" within {seconds:g} s")
    if roster.asked:
        text += f"; {len(set(roster.asked.values()))} more did not answer yet"
    for node, reason in roster.refused.items():
        text += f"; node {node} was not admitted: {reason}"
    if seconds is None:
        return f"{text}."
    return f"{text}. Start the missing nodes, or set engine.nodes and engine.wait, and resume."
