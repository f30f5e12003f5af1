"""Parts of a real federation are killed. Minutes long, so not part of `make test`: pytest -m slow tests/deployment."""

import os
import signal
import time

import pytest

from tests.engines.deployment.machine import Machine
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROUNDS = 4
LONG = (f"federation.rounds={ROUNDS}", "federation.local_epochs=40")


@pytest.fixture
def silos(machine: Machine) -> Machine:
    """Three nodes: two silos with a client each, and a virtual node with the other three."""
    machine.run(*machine.train_command("local", *LONG))
    first, second, *others = machine.clients("local")
    machine.make_silo("first", first)
    machine.make_silo("second", second)
    machine.make_virtual_node("virtual", tuple(others))
    machine.start_superlink()
    for place in ("first", "second", "virtual"):
        machine.register(place)
        machine.start_node(place)
    return machine


def wait_for_round(machine: Machine, run_dir: str, number: int) -> None:
    train = machine.running["train"]
    wait_until(lambda: len(machine.history(run_dir)) >= number or train.poll() is not None, machine.logs)
    assert train.poll() is None, machine.logs()


def finish(machine: Machine) -> None:
    assert machine.running.pop("train").wait(3 * PATIENCE) == 0, machine.logs()


def test_a_silo_killed_in_mid_round_that_never_comes_back(silos: Machine) -> None:
    silos.start("train", *silos.deployed_command("lost", 3, *LONG))
    wait_for_round(silos, "lost", 1)
    time.sleep(1)
    silos.end("second", signal.SIGKILL)
    started = time.monotonic()
    finish(silos)
    print(f"ended {time.monotonic() - started:.0f} s after the kill")
    history = silos.history("lost")
    assert [record["clients"] for record in history] == [5, 4, 4, 4]
    assert list(history[-1]["failures"].values()) == ["no node that hosts it is there"]


def test_a_silo_that_comes_back_is_asked_again(silos: Machine) -> None:
    silos.start("train", *silos.deployed_command("back", 3, *LONG, "federation.round_timeout=90"))
    wait_for_round(silos, "back", 1)
    silos.end("second", signal.SIGKILL)
    silos.start_node("second")
    finish(silos)
    assert [record["clients"] for record in silos.history("back")][-1] == 5


@pytest.mark.parametrize("part", ["train_fed.py", "flwr-serverapp"])
def test_the_server_killed_in_mid_round_resumes_and_ends_in_the_same_weights(silos: Machine, part: str) -> None:
    silos.start("train", *silos.deployed_command("killed", 3, *LONG))
    wait_for_round(silos, "killed", 2)
    if part == "train_fed.py":
        silos.end("train", signal.SIGTERM)
    else:
        [process] = serverapps()
        os.kill(process, signal.SIGKILL)
        assert silos.running.pop("train").wait(PATIENCE) == 2
    assert 2 <= len(silos.history("killed")) < ROUNDS
    silos.run(*silos.deployed_command("killed", 3, *LONG, "resume=true"))
    assert silos.summary("killed")["weights_sha256"] == silos.summary("local")["weights_sha256"]


def test_a_superlink_killed_in_mid_round_is_started_again_and_the_run_resumed(silos: Machine) -> None:
    silos.start("train", *silos.deployed_command("restarted", 3, *LONG))
    wait_for_round(silos, "restarted", 2)
    silos.end("superlink", signal.SIGKILL)
    time.sleep(3)
    silos.start_superlink()
    assert silos.running.pop("train").wait(PATIENCE) in (0, 2), silos.logs()
    silos.run(*silos.deployed_command("restarted", 3, *LONG, "resume=true"))
    assert silos.summary("restarted")["weights_sha256"] == silos.summary("local")["weights_sha256"]


def serverapps() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline") as file:
                    if "flwr-serverapp" in file.read():
                        found.append(int(entry))
            except OSError:
                continue
    return found
