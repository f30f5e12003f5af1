"""A federation of nodes that learns an encoder from speech without transcripts."""

import pytest

from tests.engines.deployment.machine import Machine
from tests.tasks.test_pretraining import TASK

LOSS = ("weighting._target_=asr_fed.aggregation.weighting.LossSoftmax", "warm_start.epochs=0", "federation.rounds=2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_pretrains_with_the_servers_codebook_and_ends_in_the_weights_of_local_workers(machine: Machine) -> None:
    changes = (*TASK, *LOSS)
    machine.run(*machine.train_command("local", *changes))
    machine.make_virtual_node("virtual", machine.clients("local"))
    machine.start_superlink()
    machine.register("virtual")
    machine.start_node("virtual")
    machine.run(*machine.deployed_command("deployed", 1, *changes))

    local, deployed = machine.summary("local"), machine.summary("deployed")
    assert local["weights_sha256"] == deployed["weights_sha256"]
    assert machine.history("local") == machine.history("deployed")
    assert machine.end("virtual") == 143, machine.log("virtual")
