"""A real federation over an encoder that others have trained: nodes have its base, not its folder. Minutes long."""

import json
from pathlib import Path

import pytest

from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import write_partition
from asr_fed.model.recogniser import load_recogniser
from asr_fed.model.state import layout
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import read_config
from tests.encoders import TRAINED, write_encoder
from tests.engines.deployment.machine import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TUNED = ("federation.tune=lora", "federation.lora_rank=2", "federation.rounds=2")


def test_a_node_trains_lora_alone_and_ends_in_the_weights_of_local_workers(machine: Machine, tmp_path: Path) -> None:
    changes = (*TRAINED, f"model.folder={write_encoder(tmp_path / 'encoder')}", *TUNED)
    machine.run(*machine.train_command("local", *changes))
    write_partition(Partition((), (), (), (), machine.clients("local")), machine.folder / "virtual" / "partition")
    base = "../local/checkpoints/warm_start.pt"
    machine.describe_node("virtual", "virtual", partition="partition", workers=1, base=base)
    machine.start_superlink()
    machine.register("virtual")
    machine.start_node("virtual")
    machine.run(*machine.deployed_command("deployed", 1, *changes))

    local, deployed = machine.summary("local"), machine.summary("deployed")
    assert local["weights_sha256"] == deployed["weights_sha256"]
    assert machine.history("local") == machine.history("deployed")
    model = load_recogniser(machine.folder / "local" / "checkpoints" / "federated.pt").model
    whole = layout(model).length
    train_only(model, read_config(machine.folder / "local").federation)
    left = layout(model).length
    for line in (machine.folder / "deployed" / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert 4 * left < record["bytes_down"] < 4 * left + 1000 < 2 * whole
        assert record["bytes_up"] < 5.1 * left + 1000
    assert machine.end("virtual") == 143, machine.log("virtual")
