"""A real federation on this machine: a SuperLink behind its proxy, TLS, keys, a silo, a virtual node and a stranger."""

from pathlib import Path

import pytest

from asr_fed.federation.state import load_federation
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.wire.members import MEMBERS
from tests.engines.deployment.machine import Machine
from tests.tiny import talk

TWO_ROUNDS = (
    *("federation.rounds=2", "personalise=true", "personalisation.epochs=1"),
    *("federation.clients.dev_fraction=0.3", "federation.clients.dev_min_utterances=3"),
)


def test_silo_and_virtual_node_end_in_the_same_weights_as_local_workers(machine: Machine) -> None:
    machine.run(*machine.train_command("local", *TWO_ROUNDS))
    # One client's speech moves into a silo of its own; the others' are simulated by a virtual node.
    own, *simulated = machine.clients("local")
    machine.make_silo("silo", own)
    machine.make_virtual_node("virtual", tuple(simulated))
    machine.describe_node("stranger", "stranger", manifest="../silo/manifest.csv")
    machine.start_superlink()
    assert "is admitted" in machine.register("silo")
    (machine.folder / "certificates" / MEMBERS).write_text("{}")  # as if an earlier version had registered it
    assert "had been admitted" in machine.register("silo")
    assert "is admitted" in machine.register("virtual")
    for place in ("silo", "virtual", "stranger"):
        machine.start_node(place)
    told = machine.run(*machine.deployed_command("deployed", 2, *TWO_ROUNDS))

    local, deployed = machine.summary("local"), machine.summary("deployed")
    for key in ("weights_sha256", "test_wer", "clients", "hours", "best_round", "rounds", "personalisation"):
        assert local[key] == deployed[key], key
    assert machine.history("local") == machine.history("deployed")
    assert "2 of 2 nodes joined" in told and f"{own.id} connected from 127.0.0.1" in machine.log("superlink")
    stranger = machine.log("stranger")
    assert "waiting: the server does not take this node's key: a key that is not registered" in stranger
    assert "connected" not in stranger and "joined" not in stranger
    for place in ("silo", "virtual"):
        words = ["looking for", "connected to", "preparing:", "joined", "round 1 of 2", "round 2 of 2", "done:"]
        log = machine.log(place)
        assert [word for word in words if word in log] == words == sorted(words, key=log.find)
    assert machine.log("silo").count("trained 1 client(s)") == 2
    assert machine.log("virtual").count("trained 4 client(s)") == 2
    assert local["personalisation"]["clients"] == 5 and machine.log("silo").count("personalised 1 client(s)") == 1
    path = str(machine.folder / "silo")
    assert not [file for file in (machine.folder / "deployed").rglob("*") if file.is_file() and path in _text(file)], (
        "a path of the silo is on the server's side"
    )
    assert (machine.folder / "superlink" / "state.db").is_file()
    assert machine.open_to_others("certificates", "superlink", "silo/state", "virtual/state", "deployed") == []
    for name in ("silo", "virtual", "stranger", "superlink"):
        assert machine.end(name) == 143, machine.log(name)


def start_silo_and_virtual_node(machine: Machine) -> None:
    """The first client of the run `local` at a node of its own, the others simulated by another one."""
    own, *simulated = machine.clients("local")
    machine.make_silo("silo", own)
    machine.make_virtual_node("virtual", tuple(simulated))
    machine.start_superlink()
    for place in ("silo", "virtual"):
        machine.register(place)
        machine.start_node(place)


@pytest.mark.slow
def test_a_live_node_is_asked_again_as_soon_as_it_has_answered(machine: Machine) -> None:
    """The silo has one client and the virtual node four, so that it is asked several times for one of the other's."""
    machine.run(*machine.train_command("local", "federation.rounds=0"))
    start_silo_and_virtual_node(machine)
    buffered = ("federation.buffer=1", "federation.cohort=null", "federation.local_epochs=4")
    machine.run(*machine.deployed_command("deployed", 2, *buffered, "federation.rounds=6"))
    machine.run(*machine.deployed_command("deployed", 2, *buffered, "federation.rounds=12", "resume=true"))

    history = machine.history("deployed")
    assert [record["round"] for record in history] == [*range(1, 13)]
    assert not any(record["failures"] for record in history)
    assert {record["clients"] for record in history} <= {1, 4, 5}
    assert max(record["staleness"] for record in history) > 0, "while the other worked, steps were made"
    assert machine.log("silo").count("trained 1 client(s)") > machine.log("virtual").count("trained 4 client(s)") > 0
    report = (machine.folder / "deployed" / "report.html").read_text(encoding="utf-8")
    assert "Age of the updates" in report


@pytest.mark.slow
def test_coarse_messages_by_the_clock_of_a_fleet_end_in_the_same_weights_as_local_workers(machine: Machine) -> None:
    """Both at once, as nodes cost a minute: rounded messages, and asynchronous steps on a virtual clock."""
    fleet = (
        *("+simulation=phones", "simulation.buffer=2", "simulation.network=1000000", "federation.cohort=3"),
        *("weighting=num_examples", "federation.rounds=3"),
    )
    coarse = ("federation.upload.bits=8", "federation.download.bits=16")
    machine.run(*machine.train_command("local", *fleet, *coarse))
    start_silo_and_virtual_node(machine)
    machine.run(*machine.deployed_command("coarse", 2, *fleet, *coarse))
    machine.run(*machine.deployed_command("whole", 2, *fleet))

    local, deployed = machine.summary("local"), machine.summary("coarse")
    assert local["weights_sha256"] == deployed["weights_sha256"]
    # The weights that a run keeps may be those of the warm start: these are the last ones.
    last = {
        name: load_federation(machine.folder / name / "checkpoints" / "federation.pt").weights.tobytes()
        for name in ("local", "coarse", "whole")
    }
    assert last["local"] == last["coarse"] != last["whole"]
    assert machine.history("local") == machine.history("coarse")
    for name in ("simulation.csv", "simulation_rounds.csv"):
        assert (machine.folder / "local" / name).read_bytes() == (machine.folder / "coarse" / name).read_bytes()
    assert max(record["staleness"] for record in machine.history("coarse")) > 0, "some was asked before a step"
    assert machine.log("silo").count("trained 1 client(s)") > 0
    small, large = (machine.exchanged(run_dir) for run_dir in ("coarse", "whole"))
    assert 0.45 < small["bytes_down"] / large["bytes_down"] < 0.6 and small["bytes_up"] / large["bytes_up"] < 0.6


@pytest.mark.slow
def test_a_silo_without_transcripts_ends_in_the_same_weights_as_local_workers(machine: Machine) -> None:
    machine.run(*machine.train_command("start", "federation.rounds=0", "warm_start.epochs=0"))
    recogniser = load_recogniser(machine.folder / "start" / "checkpoints" / "warm_start.pt")
    talk(recogniser.model)  # so that there is something to hear
    save_recogniser(recogniser, machine.folder / "start.pt")
    semi = (
        *("warm_start.checkpoint=start.pt", "weighting=num_examples", "federation.rounds=2"),
        *("federation.pseudo_labels.every=2", "federation.pseudo_labels.min_confidence=0.0"),
        *("federation.pseudo_labels.max_rate=1000.0", "federation.pseudo_labels.min_utterances=4"),
    )
    machine.run(*machine.train_command("local", *semi, "data.parts.transcribed=0.4"))
    clients = machine.clients("local")
    own = next(client for client in clients if len(client.train) >= 4 and not client.train[0].text)
    machine.make_silo("silo", own)
    machine.make_virtual_node("virtual", tuple(client for client in clients if client is not own))
    machine.start_superlink()
    for place in ("silo", "virtual"):
        machine.register(place)
        machine.start_node(place)
    machine.run(*machine.deployed_command("deployed", 2, *semi))
    assert machine.history("local") == machine.history("deployed")
    assert machine.summary("local")["weights_sha256"] == machine.summary("deployed")["weights_sha256"]
    assert all(0 < each["pseudo_labelled"] <= each["untranscribed"] for each in machine.history("deployed"))


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")
