"""What a node answers, with real workers, and that its refusals tell nothing about the node."""

import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.app import Message, MessageType, RecordDict

from asr_fed.data.manifest import write_manifest
from asr_fed.engines.deployment import resident
from asr_fed.engines.deployment.journal import JOURNAL, Journal
from asr_fed.engines.deployment.policy import Policy
from asr_fed.engines.deployment.resident import NOT_IN_ORDER, REFUSED, Resident
from asr_fed.engines.deployment.settings import Clients, NodeSettings
from asr_fed.engines.workers import Event, WorkerLost
from asr_fed.federation import client_app
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.state import read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.joining import query_message, read_report
from asr_fed.wire.messages import Order, SharedConfig, Terms
from asr_fed.wire.rounds import order_arrays, order_message, read_reply, reply_ticket
from tests.federation.inline_pool import InlinePool
from tests.federation.plain_node import PlainNode, content

NODE = 4


@dataclass
class Server:
    """Makes the messages of an experiment's server."""

    experiment: Experiment
    plain: PlainNode
    weights: np.ndarray

    @property
    def setup(self) -> SharedConfig:
        return shared_config(self.experiment)

    @property
    def clients(self) -> list[str]:
        return list(self.plain.clients)

    def query(self, setup: SharedConfig | None = None) -> Message:
        identify_process(run_id=1, node_id=0)
        return query_message(NODE, setup or self.setup)

    def order(self, kind: str = MessageType.TRAIN, **changes: Any) -> Message:
        """An order to train, or to do what `kind` says; `changes` are other fields of the Order."""
        given: dict[str, Any] = {"clients": self.clients, "weights": self.weights, "setup": self.setup.sha256}
        order = Order(**{"server_round": 2, "lr": 0.1, "ticket": "t2", **given, **changes})
        identify_process(run_id=1, node_id=0)
        return order_message(NODE, order, order_arrays(order), kind)


@dataclass
class Node:
    resident: Resident
    folder: Path
    said: list[str]

    def error(self, message: Message) -> tuple[int, str]:
        """Code and reason of the refusal, which names nothing of this machine."""
        answer = self.resident.answer(message)
        assert answer.has_error() and not answer.has_content()
        assert answer.metadata.dst_node_id == 0 and answer.metadata.src_node_id == NODE
        reason = answer.error.reason or ""
        assert "/" not in reason and str(self.folder) not in reason
        return answer.error.code, reason


@pytest.fixture(scope="module")
def server(experiment: Experiment) -> Server:
    plain = PlainNode.of(experiment)
    return Server(experiment, plain, read_state(plain.training.recogniser.model))


@pytest.fixture(scope="module")
def settings(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> NodeSettings:
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(experiment.run_dir / "partition", folder / "partition")
    given = {"folder": str(folder / "state"), "partition": str(folder / "partition")}
    return NodeSettings("virtual", "here:1", **given, workers=2, device="cpu")


@pytest.fixture(scope="module")
def node(settings: NodeSettings, server: Server) -> Iterator[Node]:
    """It has joined."""
    said: list[str] = []
    with Resident(settings, said.append) as resident:
        answer = resident.answer(server.query())
        assert not answer.has_error(), said
        yield Node(resident, Path(settings.folder).parent, said)


def new(settings: NodeSettings) -> Node:
    said: list[str] = []
    return Node(Resident(settings, said.append), Path(settings.folder).parent, said)


def test_a_node_that_joins_says_whom_it_hosts(node: Node, server: Server) -> None:
    """Once to its owner, however often the server asks, as it does where preparing takes more than a minute."""
    report = read_report(node.resident.answer(server.query()))
    assert (report.name, report.own, report.setup) == ("virtual", False, server.setup.sha256)
    examples = {name: hosted.examples for name, hosted in report.clients.items()}
    assert examples == {name: len(client.train) for name, client in server.plain.clients.items()}
    assert sum("joined experiment" in text for text in node.said) == 1
    assert node.said[-1].startswith("asked again") and node.said[-1].endswith("it has joined")


def test_an_order_is_answered_by_the_bits_of_the_plain_function(node: Node, server: Server) -> None:
    order = server.order()
    answer = node.resident.answer(order)
    assert answer.metadata.message_type == MessageType.TRAIN and reply_ticket(answer) == "t2"
    reply = read_reply(answer, server.clients, len(server.weights))
    expected, failures = server.plain.update(Order(2, 0.1, tuple(server.clients), server.weights))
    assert failures == reply.failures == {}
    assert reply.update is not None and content(reply.update) == content(expected)
    assert reply.timing.busy > 0 and reply.timing.start >= 0
    assert node.said[-1].startswith("round 2 of 3: trained 5 client(s)")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"setup": "0" * 64}, "has not joined"),
        ({"setup": "../../../etc"}, "has not joined"),
        ({"setup": ""}, "has not joined"),
        ({"weights": np.zeros(5, np.float32)}, "5 weights for a model of"),
        ({"weights": np.full(5, np.nan, np.float32)}, "not finite"),
        ({"weights": np.zeros(5)}, "in place of float32"),
        ({"clients": ["client_0000", "stranger"]}, "'stranger', whom this node does not host"),
        ({"clients": ["client_0000", "client_0000"]}, "a client twice"),
    ],
)
def test_an_order_that_is_not_in_order_is_refused(
    node: Node, server: Server, changes: dict[str, Any], told: str
) -> None:
    code, reason = node.error(server.order(**changes))
    assert code == REFUSED and told in reason
    assert node.said[-1] == f"refused: {reason}"  # its owner can read it too


def test_weights_with_one_nan_are_refused(node: Node, server: Server) -> None:
    weights = server.weights.copy()
    weights[-1] = np.nan
    assert node.error(server.order(weights=weights)) == (REFUSED, "weights that are not finite")


def test_a_message_of_another_kind_is_refused(node: Node, server: Server) -> None:
    identify_process(run_id=1, node_id=0)
    for kind in ("train.other", "query.other"):
        code, reason = node.error(Message(RecordDict(), NODE, kind))
        assert code == REFUSED and kind in reason
    for kind in (MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE):
        assert node.error(Message(RecordDict(), NODE, kind))[0] == REFUSED


def test_a_node_does_not_personalise_where_the_setup_that_it_joined_does_not(node: Node, server: Server) -> None:
    assert node.error(server.order(kind=MessageType.EVALUATE)) == (
        REFUSED,
        "an order to personalise in an experiment that does not",
    )


def test_a_refused_setup_leaves_the_node_in_the_experiment_that_it_joined(node: Node, server: Server) -> None:
    code, reason = node.error(server.query(SharedConfig("a: ${oc.env:HOME}", b"")))
    assert code == REFUSED and "other sections" in reason
    answer = node.resident.answer(server.order(clients=server.clients[:1]))
    assert read_reply(answer, server.clients[:1], len(server.weights)).update is not None


@pytest.mark.parametrize(
    "config",
    [
        "seed: 2026-13-45\n",
        f"seed: {'9' * 5000}\n",
        "[" * 15_000,
        "{a: " * 15_000,
        "\0",
        "? - : -",
        "seed: .inf\n",
    ],
    ids=range(7),
)
def test_no_config_ends_a_node(server: Server, settings: NodeSettings, config: str) -> None:
    """Each raised another exception through `prepare`. What is left of the real config stays in order."""
    node, left = new(settings), re.sub("^seed: .*\n", "", server.setup.config, flags=re.MULTILINE)
    assert left != server.setup.config
    for text in (config, config + left):
        code, _ = node.error(server.query(SharedConfig(text, server.setup.tokenizer)))
        assert code == REFUSED and node.said[-1].startswith("refused: ")


@pytest.mark.parametrize("section", ["features.sample_rate", "federation.batch.max_utterances"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "x", [], None])
def test_no_number_of_a_config_ends_a_node(server: Server, settings: NodeSettings, section: str, value: object) -> None:
    content = yaml.safe_load(server.setup.config)
    *path, name = section.split(".")
    inner = content
    for key in path:
        inner = inner[key]
    inner[name] = value
    code, _ = new(settings).error(server.query(SharedConfig(yaml.safe_dump(content), server.setup.tokenizer)))
    assert code in (REFUSED, NOT_IN_ORDER)


def test_whatever_happens_in_preparing_the_owner_is_told_and_the_node_goes_on(
    server: Server, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(*_: object) -> None:
        raise ZeroDivisionError("of the file /home/clinic/secret.wav")

    monkeypatch.setattr("asr_fed.engines.deployment.resident.prepare", prepare)
    node = new(settings)
    assert node.error(server.query())[0] == NOT_IN_ORDER
    assert node.said == [
        f"preparing: features for experiment {server.setup.sha256[:8]}",
        "not in order: ZeroDivisionError: of the file /home/clinic/secret.wav",
    ]


def test_clients_that_fail_are_named(node: Node, server: Server) -> None:
    """Weights that are finite, but so large that training is not."""
    answer = node.resident.answer(server.order(weights=np.full_like(server.weights, 3e38)))
    reply = read_reply(answer, server.clients, len(server.weights))
    assert reply.update is None and reply.failures.keys() == set(server.clients)
    assert not any(str(node.folder) in reason for reason in reply.failures.values())


def test_a_node_started_anew_trains_without_being_asked_to_join(
    settings: NodeSettings, server: Server, node: Node
) -> None:
    """The server does not know that the node was away; `node` has joined before."""
    again = new(settings)
    with again.resident:
        answer = again.resident.answer(server.order(clients=server.clients[:2]))
        update = read_reply(answer, server.clients[:2], len(server.weights)).update
    expected, _ = server.plain.update(Order(2, 0.1, tuple(server.clients[:2]), server.weights))
    assert update is not None and content(update) == content(expected)


def test_a_simulated_client_may_be_asked_for_a_part_of_a_round(node: Node, server: Server) -> None:
    asked = server.clients[:2]
    terms = {asked[0]: Terms(1, 0.5)}
    update = read_reply(
        node.resident.answer(server.order(clients=asked, terms=terms)), asked, len(server.weights)
    ).update
    expected, _ = server.plain.update(Order(2, 0.1, tuple(asked), server.weights, terms=terms))
    assert update is not None and content(update) == content(expected)


@pytest.fixture
def hospital(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with speakers of its own; two of them at least have to be in an update. It has joined."""
    monkeypatch.setattr(resident, "LocalPool", InlinePool)
    speech = [each for client in server.experiment.partition.clients for each in client.utterances]
    write_manifest(tmp_path / "manifest.csv", speech)
    given: dict[str, Any] = {"folder": str(tmp_path / "state"), "manifest": str(tmp_path / "manifest.csv")}
    given["policy"] = Policy(utterances=1, seconds=0.0, steps=1, batch=1, clients=2)
    hospital = new(NodeSettings("hospital", "here:1", **given, clients=Clients.speaker, workers=1, device="cpu"))
    with hospital.resident:
        assert not hospital.resident.answer(server.query()).has_error(), hospital.said
        yield hospital


def test_an_own_client_is_not_asked_for_less_than_its_owner_wants(hospital: Node, server: Server) -> None:
    asked = ["hospital-0001", "hospital-0002"]
    assert not hospital.resident.answer(server.order(clients=asked)).has_error()
    code, reason = hospital.error(server.order(clients=asked, terms={asked[0]: Terms(0)}))
    assert code == REFUSED and "policy of this node's owner" in reason


def test_no_update_leaves_with_fewer_clients_than_its_owner_wants(
    hospital: Node, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the others failed, what was left was the update of a single client."""
    train, asked = client_app.train_speech, ["hospital-0001", "hospital-0002", "hospital-0003"]
    ill = {asked[1]}

    def only_some(run: Any, training: Any, algorithm: Any, weighting: Any, client: Any, *rest: Any) -> Any:
        if client.id in ill:
            raise ZeroDivisionError
        return train(run, training, algorithm, weighting, client, *rest)

    monkeypatch.setattr(client_app, "train_speech", only_some)
    reply = read_reply(hospital.resident.answer(server.order(clients=asked)), asked, len(server.weights))
    assert reply.update is not None and reply.failures.keys() == ill
    ill.add(asked[0])
    answer = hospital.resident.answer(server.order(clients=asked))
    assert "arrays" not in answer.content and "totals" not in answer.content
    failures = read_reply(answer, asked, len(server.weights)).failures
    assert "ZeroDivisionError" in failures[asked[0]] and "policy.clients" in failures[asked[2]]
    assert "policy.clients" in hospital.said[-1]


class Weak(InlinePool):
    """Its workers can die before they are ready, as where there is no memory for them."""

    dying = False

    def receive(self, nodes: Collection[int], timeout: float | None) -> list[tuple[int, Event]]:
        if Weak.dying:
            return [(node, WorkerLost("no memory")) for node in nodes]
        return super().receive(nodes, timeout)


def test_a_node_whose_workers_were_given_up_starts_them_again(
    settings: NodeSettings, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "LocalPool", Weak)
    weak, asked = new(settings), server.clients[:2]
    with weak.resident:
        assert not weak.resident.answer(server.query()).has_error()
        monkeypatch.setattr(Weak, "dying", True)
        failures = read_reply(weak.resident.answer(server.order(clients=asked)), asked, len(server.weights)).failures
        assert failures.keys() == set(asked)
        monkeypatch.setattr(Weak, "dying", False)
        again = read_reply(weak.resident.answer(server.order(clients=asked)), asked, len(server.weights))
        assert again.failures == {} and again.update is not None


def test_preparing_is_work_and_all_that_came_is_in_the_journal(
    settings: NodeSettings, server: Server, tmp_path: Path
) -> None:
    policy = Policy(hours_per_day=1e-9)
    busy = new(replace(settings, folder=str(tmp_path / "state"), workers=1, policy=policy))
    with busy.resident:
        assert not busy.resident.answer(server.query()).has_error()
        order = server.order(clients=server.clients[:1])
        for asked in (order, server.query(SharedConfig("seed: 1\n", b"tokens"))):
            code, reason = busy.error(asked)
            assert code == REFUSED and "policy.hours_per_day" in reason
    asked, preparing, prepared, joined, ordered, *refused = Journal(tmp_path / "state" / JOURNAL).entries()
    assert [asked["event"], preparing["event"], joined["event"]] == ["asked to join", "preparing", "joined"]
    assert prepared["event"] == "prepared" and prepared["seconds"] > 0
    [array] = order.content["arrays"].values()
    assert ordered["event"] == "ordered" and ordered["vectors"] == sha256(array.data).hexdigest()
    assert [entry["event"] for entry in refused] == ["refused", "asked to join", "refused"]


def test_what_is_wrong_with_a_nodes_own_files_is_told_to_its_owner_alone(
    settings: NodeSettings, server: Server, tmp_path: Path
) -> None:
    missing = tmp_path / "gone" / "manifest.csv"
    ill = new(NodeSettings("clinic", "here:1", str(tmp_path / "state"), manifest=str(missing), workers=1, device="cpu"))
    with ill.resident:
        code, reason = ill.error(server.query())
    assert code == NOT_IN_ORDER and reason == "the node is not in order, its owner has been told why"
    assert str(missing) in ill.said[-1]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["journal.jsonl"], "what it was asked, no more"
