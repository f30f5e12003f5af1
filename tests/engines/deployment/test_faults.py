"""Parts of a real federation are killed. Minutes long, so not part of `make test`: `make slow` runs them."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.engines.deployment.machine import COMMAND, Machine
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LONG = 4 * PATIENCE  # a run has many parts, each of which starts with seconds of imports
ROUNDS = 4
# Long rounds: killed at once when the round before is written, a part is killed in the middle of the next one.
SETTINGS = (f"federation.rounds={ROUNDS}", "federation.local_epochs=40")
NODES = ("first", "second", "virtual")


@pytest.fixture(scope="module")
def federation(lasting_machine: Machine) -> Machine:
    """Two silos with a client each, and a virtual node with the other three; the same run without them is `local`."""
    machine = lasting_machine
    machine.run(*machine.train_command("local", *SETTINGS))
    first, second, *others = machine.clients("local")
    machine.make_silo("first", first)
    machine.make_silo("second", second)
    machine.make_virtual_node("virtual", tuple(others))
    machine.start_superlink()
    for place in NODES:
        machine.register(place)
    return machine


@pytest.fixture
def silos(federation: Machine) -> Iterator[Machine]:
    """All parts are there, and no run is under way, whatever the test before did."""
    if "superlink" not in federation.running:
        federation.start_superlink()
    for place in NODES:
        if place not in federation.running:
            federation.start_node(place)
    yield federation
    if "train" in federation.running:
        federation.end("train", signal.SIGKILL)
    if "superlink" in federation.running:
        control = ("--certificates", "certificates", "--control-port", str(federation.control_port))
        federation.run(*COMMAND, "stop", *control)


def wait_for_round(machine: Machine, run_dir: str, number: int) -> None:
    train = machine.running["train"]
    wait_until(lambda: len(machine.history(run_dir)) >= number or train.poll() is not None, machine.logs, LONG)
    assert train.poll() is None, machine.logs()


def finish(machine: Machine) -> int:
    """The exit status of the training."""
    return machine.running.pop("train").wait(LONG)


def test_a_silo_killed_in_mid_round_that_never_comes_back(silos: Machine) -> None:
    silos.start("train", *silos.deployed_command("lost", 3, *SETTINGS))
    wait_for_round(silos, "lost", 1)
    silos.end("second", signal.SIGKILL)
    assert finish(silos) == 0, silos.logs()
    history = silos.history("lost")
    assert [record["clients"] for record in history] == [5, 4, 4, 4]
    assert list(history[-1]["failures"].values()) == ["no node that hosts it is there"]


def test_a_silo_that_comes_back_is_asked_again(silos: Machine) -> None:
    """It has as many rounds as it needs for that."""
    silos.start("train", *silos.deployed_command("back", 3, "federation.rounds=500", *SETTINGS[1:]))
    wait_for_round(silos, "back", 1)
    silos.end("second", signal.SIGKILL)
    silos.start_node("second")

    def back() -> bool:
        clients = [record["clients"] for record in silos.history("back")]
        return 4 in clients and clients[-1] == 5

    wait_until(lambda: back() or silos.running["train"].poll() is not None, silos.logs, LONG)
    assert back(), silos.logs()
    assert silos.end("train") == 128 + signal.SIGTERM, silos.logs()


@pytest.mark.parametrize("part", ["train_fed.py", "flwr-serverapp"])
def test_the_server_killed_in_mid_round_resumes_and_ends_in_the_same_weights(silos: Machine, part: str) -> None:
    run_dir = f"killed-{part}"
    silos.start("train", *silos.deployed_command(run_dir, 3, *SETTINGS))
    wait_for_round(silos, run_dir, 2)
    if part == "train_fed.py":
        silos.end("train", signal.SIGTERM)
    else:
        (process,) = silos.processes("/flwr-serverapp ")
        os.kill(process, signal.SIGKILL)
        assert finish(silos) == 2, silos.logs()
    assert 2 <= len(silos.history(run_dir)) < ROUNDS
    silos.run(*silos.deployed_command(run_dir, 3, *SETTINGS, "resume=true"))
    assert silos.summary(run_dir)["weights_sha256"] == silos.summary("local")["weights_sha256"]


def test_a_superlink_killed_in_mid_round_is_started_again_and_the_run_resumed(silos: Machine) -> None:
    silos.start("train", *silos.deployed_command("restarted", 3, *SETTINGS))
    wait_for_round(silos, "restarted", 2)
    silos.end("superlink", signal.SIGKILL)
    time.sleep(3)
    silos.start_superlink()
    assert finish(silos) in (0, 2), silos.logs()
    silos.run(*silos.deployed_command("restarted", 3, *SETTINGS, "resume=true"))
    assert silos.summary("restarted")["weights_sha256"] == silos.summary("local")["weights_sha256"]
