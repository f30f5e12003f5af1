"""What an operator says of a node with its key is kept beside the certificates."""

from pathlib import Path
from typing import Any

import pytest

from asr_fed.commands.deployment import main
from asr_fed.engines.deployment import operate
from asr_fed.engines.deployment.control import Listed
from asr_fed.engines.deployment.credentials import make_node_key
from asr_fed.engines.deployment.operate import ALREADY, Operator
from asr_fed.system.errors import UserError
from asr_fed.wire.members import MEMBERS, Member, read_members


class Flower:
    """The command flwr over a SuperLink that knows these keys; a removed one stays in its database."""

    def __init__(self) -> None:
        self.nodes: dict[str, int] = {}
        self.removed: set[int] = set()
        self.stopped: list[str] = []

    def __call__(self, home: Path, *arguments: str) -> dict[str, Any]:
        match arguments:
            case ("supernode", "register", key, *_):
                text = " ".join(Path(key).read_text().split()[:2])  # without a remark
                if text in self.nodes:
                    raise UserError(f"the key is {ALREADY}")
                self.nodes[text] = 100 + len(self.nodes)
                return {"node-id": str(self.nodes[text])}
            case ("supernode", "unregister", node, *_):
                self.removed.add(int(node))
                return {}
            case ("ls", *_):
                return {"runs": [{"run-id": "7", "status": "running", "elapsed": "1m"}, {"status": "finished:failed"}]}
            case ("stop", run, *_):
                self.stopped.append(run)
                return {}
        raise AssertionError(arguments)

    def listed(self, address: str, certificate: Path) -> list[Listed]:
        return [
            Listed(number, "unregistered" if number in self.removed else "online", key)
            for key, number in self.nodes.items()
        ]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Flower:
    made = Flower()
    monkeypatch.setattr(operate, "flwr", made)
    monkeypatch.setattr(operate, "listed_nodes", made.listed)
    return made


def test_a_node_has_the_name_and_the_limits_that_the_operator_gave_its_key(flower: Flower, tmp_path: Path) -> None:
    operator = Operator("127.0.0.1:8000", tmp_path)
    keys = [make_node_key(tmp_path / name) for name in ("a", "b")]
    assert read_members(tmp_path) is None
    assert operator.register(keys[0], "clinic", utterances=500)
    assert operator.register(keys[1], "school", clients=30, simulated=True)
    members = read_members(tmp_path)
    assert members == {
        100: Member("clinic", 1, 500, keys[0].read_text().strip()),
        101: Member("school", 30, 100_000, keys[1].read_text().strip(), simulated=True),
    }
    assert operator.nodes() == [
        "clinic: online, at most 1 client(s) and 500 utterances",
        "school: online, at most 30 simulated client(s) and 100000 utterances",
    ]
    assert not operator.register(keys[0], "clinic", utterances=900), "only the limits change"
    assert (read_members(tmp_path) or {})[100].utterances == 900


def test_the_command_says_what_a_node_may_report(flower: Flower, tmp_path: Path) -> None:
    limits = ("--clients", "30", "--utterances", "900", "--simulated")
    assert not main(["register", str(make_node_key(tmp_path / "a")), "town", "--certificates", str(tmp_path), *limits])
    member = (read_members(tmp_path) or {})[100]
    assert (member.name, member.clients, member.utterances, member.simulated) == ("town", 30, 900, True)


def test_a_name_belongs_to_one_key(flower: Flower, tmp_path: Path) -> None:
    operator = Operator("127.0.0.1:8000", tmp_path)
    operator.register(make_node_key(tmp_path / "a"), "clinic")
    with pytest.raises(UserError, match="clinic is the name of another key"):
        operator.register(make_node_key(tmp_path / "b"), "clinic")
    assert len(flower.nodes) == 1


def test_a_node_is_removed_by_its_name(flower: Flower, tmp_path: Path) -> None:
    operator = Operator("127.0.0.1:8000", tmp_path)
    operator.register(make_node_key(tmp_path / "a"), "clinic")
    with pytest.raises(UserError, match="There is no node clinik. There are: clinic"):
        operator.unregister("clinik")
    operator.unregister("clinic")
    assert flower.removed == {100} and read_members(tmp_path) == {}
    with pytest.raises(UserError, match="takes no key twice. Its owner makes a new one"):
        operator.register(tmp_path / "a.pub", "clinic")
    assert read_members(tmp_path) == {}
    assert operator.register(make_node_key(tmp_path / "new"), "clinic"), "its name is free"


def test_a_node_that_an_earlier_version_registered_gets_a_name_or_goes_by_its_number(
    flower: Flower, tmp_path: Path
) -> None:
    operator = Operator("127.0.0.1:8000", tmp_path)
    keys = [make_node_key(tmp_path / name) for name in ("a", "b", "c")]
    flower.nodes = {key.read_text().strip(): 7 + number for number, key in enumerate(keys)}
    keys[1].write_text(f"{keys[1].read_text().strip()} somebody@clinic\n")  # as ssh-keygen writes it
    assert operator.nodes()[1] == "node 8: online, registered without a name"
    assert not operator.register(keys[1], "clinic", clients=3)
    assert (read_members(tmp_path) or {})[8].clients == 3 and operator.nodes()[1].startswith("clinic: online")
    operator.unregister("9")
    assert flower.removed == {9} and len(operator.nodes()) == 2
    with pytest.raises(UserError, match="There is no node 9"):
        operator.unregister("9")


def test_a_key_of_a_new_database_has_one_entry(flower: Flower, tmp_path: Path) -> None:
    """Else the old number would stand in the way of removing it."""
    operator = Operator("127.0.0.1:8000", tmp_path)
    key = make_node_key(tmp_path / "a")
    operator.register(key, "clinic")
    flower.nodes = {"another key": 1}
    assert operator.register(key, "clinic") and list(read_members(tmp_path) or {}) == [101]


def test_runs_that_have_not_ended_are_stopped(flower: Flower, tmp_path: Path) -> None:
    operator = Operator("127.0.0.1:8000", tmp_path)
    assert operator.runs() == ["run 7: running for 1m"]
    assert operator.stop() == ["7"] == flower.stopped


@pytest.mark.parametrize("content", ["[", "[]", '{"x": {}}', '{"1": {"name": "a", "clinets": 3}}'])
def test_a_members_file_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MEMBERS).write_text(content)
    with pytest.raises(UserError, match=MEMBERS):
        read_members(tmp_path)
