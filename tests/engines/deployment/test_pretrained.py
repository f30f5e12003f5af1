"""Nodes of a federation over an encoder that others have trained: they have its base, not its folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import write_partition
from asr_fed.engines.deployment.node_experiment import prepare
from asr_fed.federation.client_app import without_weights
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import frozen_sha256, layout
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import Experiment, open_experiment, read_config
from asr_fed.wire.messages import SharedConfig
from tests.encoders import TRAINED, pretrained_experiment, write_encoder
from tests.engines.deployment.machine import Machine
from tests.engines.deployment.test_node_experiment import node, refuse
from tests.tiny import Corpus

TUNED = ("federation.tune=lora", "federation.lora_rank=2", "federation.rounds=2")


@pytest.fixture
def experiment(corpus: Corpus, prepared: Path, tmp_path: Path) -> Experiment:
    """Whose warm start is there, and whose encoder's folder is not any more."""
    folder = write_encoder(tmp_path / "encoder")
    made = pretrained_experiment(corpus, prepared, tmp_path / "run", folder, *TUNED)
    save_recogniser(made.fresh_recogniser(), made.checkpoints / "warm_start.pt")
    folder.rename(tmp_path / "gone")
    return made


@pytest.fixture
def setup(experiment: Experiment) -> SharedConfig:
    return shared_config(experiment, without_weights(experiment).model)


def test_a_node_joins_with_the_base_alone_and_not_with_another(
    experiment: Experiment, setup: SharedConfig, tmp_path: Path
) -> None:
    base, silo = experiment.checkpoints / "warm_start.pt", experiment.partition.clients[0]
    refuse(setup, node(tmp_path, silo.utterances, name=silo.id), "has no base for it")
    other = load_recogniser(base)
    with torch.no_grad():
        other.model.get_parameter("encoder.transformer.feature_extractor.conv_layers.0.conv.weight").add_(1e-3)
    save_recogniser(other, tmp_path / "other.pt")
    settings = node(tmp_path, silo.utterances, name=silo.id, base=str(tmp_path / "other.pt"))
    refuse(setup, settings, f"frozen base is {setup.base[:8]}, and that of the node is")
    prepared = prepare(setup, node(tmp_path, silo.utterances, name=silo.id, base=str(base)))
    opened = without_weights(open_experiment(prepared.run_dir)).model
    assert frozen_sha256(opened) == setup.base and prepared.shape.state == layout(opened).length
    assert prepared.config.model.folder is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": 10**6}, "hidden_size=1000000 is not possible"),
        ({"hidden_size": 8192, "num_hidden_layers": 128}, "too large for this node"),
        ({"conv_dim": [8192] * 7, "conv_kernel": [1024] * 7}, "too large for this node"),
        ({"num_attention_heads": 3}, "no multiple of num_attention_heads"),
        ({"conv_stride": [2]}, "differ in length"),
        ({"hidden_act": "mine"}, "hidden_act"),
        ({"_attn_implementation": "someone/kernels"}, "_attn_implementation"),
    ],
)
def test_a_shape_from_the_network_is_checked_before_it_is_built(
    changes: dict[str, Any], told: str, experiment: Experiment, setup: SharedConfig, tmp_path: Path
) -> None:
    content = yaml.safe_load(setup.config)
    content["model"]["pretrained"] |= changes
    silo = experiment.partition.clients[0]
    asked = SharedConfig(yaml.safe_dump(content), setup.tokenizer, setup.base)
    refuse(asked, node(tmp_path, silo.utterances, name=silo.id), told)


@pytest.mark.slow
@pytest.mark.timeout(1800)
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
