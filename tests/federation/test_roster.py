"""Who is admitted, who hosts whom, and how long the server waits."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from flwr.app import Error, Message

from asr_fed.federation.roster import Roster, wait_for_nodes
from asr_fed.system.errors import UserError
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.joining import report_message
from asr_fed.wire.members import Member
from asr_fed.wire.messages import ClientSize, Report, SharedConfig

SETUP = SharedConfig("seed: 1\n", b"tokens")
SPEECH = ClientSize(3, 10.0, 1.0)


class Network:
    """Hosts whose nodes answer with these reports; None: not yet, a text: an error."""

    def __init__(self, **nodes: Report | str | None) -> None:
        identify_process(run_id=1, node_id=0)
        self.nodes = {int(name[1:]): report for name, report in nodes.items()}
        self.asked: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send(self, messages: Sequence[Message], patience: float = 1.0) -> list[str]:
        ids = []
        for message in messages:
            ids.append(str(len(self.asked)))
            set_message_id(message, ids[-1])
            self.asked[ids[-1]] = message
        return ids

    def receive(self, ids: Iterable[str]) -> list[Message]:
        answers = []
        for name in ids:
            query = self.asked[name]
            report = self.nodes[query.metadata.dst_node_id]
            if isinstance(report, str):
                answers.append(Message(Error(1, report), reply_to=query))
            elif report is not None:
                answers.append(report_message(query, report))
        return answers


def silo(name: str, *clients: str, setup: SharedConfig = SETUP) -> Report:
    return Report(name, True, setup.sha256, dict.fromkeys(clients, SPEECH))


def virtual(*clients: str, name: str = "virtual") -> Report:
    return Report(name, False, SETUP.sha256, dict.fromkeys(clients, SPEECH))


def joined(network: Network, needed: int = 1, seconds: float | None = None) -> Roster:
    return wait_for_nodes(network, SETUP, needed, seconds)  # type: ignore[arg-type]


def test_own_clients_are_pinned_and_simulated_ones_run_on_any_node_that_hosts_them() -> None:
    roster = joined(Network(n1=silo("clinic", "a"), n2=virtual("b", "c"), n3=virtual("b")), needed=3)
    assert (roster.hosts("a"), roster.hosts("b"), roster.hosts("c")) == ([1], [2, 3], [2])
    assert roster.clients.keys() == {"a", "b", "c"}
    assert [roster.owner(client) for client in "abcd"] == [1, None, 2, None]


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (silo("clinic", "b", setup=SharedConfig("seed: 2", b"tokens")), "another config, tokenizer or frozen base"),
        (silo("clinic", "b", setup=replace(SETUP, base="5e" * 32)), "another config, tokenizer or frozen base"),
        (silo("clinic"), "hosts no client"),
        (silo("clinic", "a"), "hosts a too, and it is not simulated"),
        (virtual("a", "b"), "hosts a too, and it is not simulated"),
        ("its manifest is missing", "its manifest is missing"),
    ],
)
def test_a_node_that_does_not_fit_is_not_admitted(report: Report | str, reason: str) -> None:
    network = Network(n1=silo("hospital", "a"), n2=report)
    roster = joined(network)
    assert roster.online == {1} and reason in roster.refused[2]
    with pytest.raises(UserError, match=rf"1 of 2 node\(s\) joined; node 2 was not admitted: .*{reason}"):
        joined(network, needed=2)


def test_waiting_is_bounded_and_names_what_is_missing() -> None:
    network = Network(n1=silo("hospital", "a"), n2=None)
    with pytest.raises(UserError, match=r"1 of 2 node\(s\) joined within 0.5 s; 1 more did not answer.*engine.nodes"):
        joined(network, needed=2, seconds=0.5)
    assert joined(network, needed=1, seconds=0.5).online == {1}  # the other may still come


def test_nodes_come_late_and_go_and_come_back() -> None:
    network = Network(n1=silo("hospital", "a"), n2=None)
    roster = joined(network, seconds=0.1)
    network.nodes[2] = silo("clinic", "b")
    roster.refresh(network)  # type: ignore[arg-type]
    assert roster.online == {1, 2} and len(network.asked) == 2
    gone = network.nodes.pop(1)
    roster.refresh(network)  # type: ignore[arg-type]
    assert roster.hosts("a") == [] and roster.hosts("b") == [2]
    assert roster.clients.keys() == {"a", "b"}, "it is still missed"
    assert roster.owner("a") == 1
    network.nodes[5] = gone  # under another id, as after losing its key
    roster.refresh(network)  # type: ignore[arg-type]
    assert roster.hosts("a") == [5] and roster.owner("a") == 5


def test_a_node_that_lost_the_question_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(n1=silo("hospital", "a"), n2=None)
    roster = joined(network, seconds=0.1)
    assert len(network.asked) == 2
    network.nodes[2] = silo("clinic", "b")
    monkeypatch.setattr("asr_fed.federation.roster.AGAIN", 0.0)  # seconds that have gone by
    roster.refresh(network)  # type: ignore[arg-type]
    assert roster.online == {1, 2} and len(network.asked) == 3
    roster.refresh(network)  # type: ignore[arg-type]
    assert len(network.asked) == 3


def admitted(report: Report, member: Member | None, *others: Member) -> dict[int, str]:
    """Node 1 reports so, and the operator has said that of it and of others: the reason for which it stays out, by
    node."""
    members = {} if member is None else dict(enumerate((member, *others), 1))
    network = Network(_1=report)
    roster = Roster(SETUP, members=lambda: members)
    roster.refresh(network)  # type: ignore[arg-type]
    roster.refresh(network)  # type: ignore[arg-type]
    assert (1 in roster.nodes) == (not roster.refused)
    return roster.refused


def test_a_node_is_who_its_key_says() -> None:
    """Whoever reported "clinic" first kept the real clinic out."""
    clinic = Member("clinic", clients=2, utterances=6)
    assert admitted(silo("clinic", "clinic"), clinic) == {}
    assert admitted(silo("clinic", "clinic-0001", "clinic-0002"), clinic) == {}
    assert "calls itself clinic" in admitted(silo("clinic", "clinic"), Member("school"))[1]
    assert "not its own name" in admitted(silo("school", "clinic"), Member("school"))[1]
    assert "not its own name" in admitted(silo("school", "schooling"), Member("school"))[1]
    assert "without a name" in admitted(silo("clinic", "clinic"), None)[1]


def test_a_node_reports_no_more_than_the_operator_lets_it() -> None:
    """1,000 invented clients took every place of a cohort; 2^29 invented utterances the whole weight."""
    crowd = silo("clinic", *(f"clinic-{number}" for number in range(1000)))
    assert "1000 clients, and is registered for 1" in admitted(crowd, Member("clinic"))[1]
    huge = Report("clinic", True, SETUP.sha256, {"clinic": ClientSize(2**29, 10.0, 1.0)})
    assert f"{2**29} utterances" in admitted(huge, Member("clinic"))[1]
    assert "2 clients" in admitted(virtual("a", "b"), Member("virtual", simulated=True))[1]
    assert admitted(virtual("a", "b"), Member("virtual", clients=2, simulated=True)) == {}


def test_a_name_that_begins_with_anothers_is_not_that_ones() -> None:
    clinic, branch = Member("clinic"), Member("clinic-b")
    assert "'clinic-b', which belongs to clinic-b" in admitted(silo("clinic", "clinic-b"), clinic, branch)[1]
    assert "'clinic-b-0001', which belongs to clinic-b" in admitted(silo("clinic", "clinic-b-0001"), clinic, branch)[1]
    assert admitted(silo("clinic-b", "clinic-b-0001"), branch, clinic) == {}
    assert admitted(silo("clinic", "clinic-0001"), clinic, branch) == {}


def test_simulated_clients_are_reported_by_whom_the_operator_registered_for_them() -> None:
    """Any member could call its clients simulated, and so give them another's name."""
    evil = virtual("clinic", name="evil")
    assert "registered without --simulated" in admitted(evil, Member("evil"), Member("clinic"))[1]
    for client in ("clinic", "clinic-0001"):
        theirs = virtual(client, name="evil")
        assert "which belongs to clinic" in admitted(theirs, Member("evil", simulated=True), Member("clinic"))[1]
    assert admitted(virtual("clinician", "virtual-1"), Member("virtual", 2, simulated=True), Member("clinic")) == {}


def test_nobody_takes_the_place_of_a_silo_that_is_away() -> None:
    """It did, for good, within one look at who is there."""
    members = {1: Member("evil"), 2: Member("clinic"), 3: Member("virtual", simulated=True)}
    network = Network(n2=silo("clinic", "clinic"))
    roster = Roster(SETUP, members=lambda: members)

    def look() -> None:
        for _ in range(2):
            roster.refresh(network)  # type: ignore[arg-type]

    look()
    there = network.nodes.pop(2)
    network.nodes |= {1: virtual("clinic", name="evil"), 3: virtual("clinic")}
    look()
    assert roster.online == set() and roster.refused.keys() == {1, 3} and roster.owner("clinic") == 2
    network.nodes[2] = there
    look()
    assert roster.hosts("clinic") == [2] and roster.owner("clinic") == 2


def test_a_nodes_reason_does_nothing_to_the_terminal() -> None:
    network = Network(_1="\x1b[2J" + "x" * 5000)
    roster = Roster(SETUP)
    roster.refresh(network)  # type: ignore[arg-type]
    roster.refresh(network)  # type: ignore[arg-type]
    assert roster.refused[1].isprintable() and len(roster.refused[1]) <= 300


def test_an_operator_who_waits_sees_who_is_missing_and_why() -> None:
    members = {1: Member("clinic-a"), 2: Member("clinic-b"), 3: Member("clinic-c")}
    network, said = Network(n1=silo("clinic-a", "clinic-a"), n2=None), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:  # the third one comes, and then the second one is ready
            network.nodes[3] = silo("clinic-c", "clinic-c", "clinic-d")
        if len(said) == 2:
            network.nodes[2] = silo("clinic-b", "clinic-b")

    wait_for_nodes(network, SETUP, 2, 300.0, lambda: members, say)  # type: ignore[arg-type]
    assert said[0] == "1 of 2 nodes joined, clinic-b preparing, clinic-c not connected"
    assert said[-1] == "2 of 2 nodes joined, clinic-c not admitted: clinic-c reports 2 clients, and is registered for 1"


def test_a_node_without_a_name_and_many_nodes() -> None:
    members = {number: Member(f"clinic-{number}") for number in range(1, 9)}
    roster = Roster(SETUP, members=lambda: members, there={99}, asked={"a": 99})
    told = roster.describe(9)
    assert told.startswith("0 of 9 nodes joined, node 99 preparing, clinic-1, clinic-2,")
    assert told.endswith("clinic-5 and 3 more not connected")
