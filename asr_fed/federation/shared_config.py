"""What a server sends a node that joins: the part of its config that local training depends on, and the tokenizer."""

from omegaconf import OmegaConf
from torch import nn

from asr_fed.model.state import frozen_sha256, pack_frozen
from asr_fed.runs.experiment import OpenRun
from asr_fed.wire.messages import SharedConfig

# No section that names a path or a machine. The node adds its own data, device and engine.
SHARED = (
    *("task", "seed", "precision", "features", "tokenizer", "model", "augment", "loss"),
    *("federation", "algorithm", "weighting", "personalise", "personalisation", "evaluation"),
)


def shared_config(run: OpenRun, model: nn.Module | None = None) -> SharedConfig:
    """The same for every process that opened the same run, on any machine; `model` may have frozen parts."""
    config = OmegaConf.structured(run.config)
    shared = OmegaConf.create({name: config[name] for name in SHARED})
    shared.model.folder = None  # a node has the encoder's shape, and its weights with the rest of the model
    text = OmegaConf.to_yaml(shared, resolve=True, sort_keys=True)
    if model is None:
        return SharedConfig(text, run.tokenizer.proto)
    drawn = pack_frozen(model) if run.config.task.kind.pretrains else b""
    return SharedConfig(text, run.tokenizer.proto, frozen_sha256(model), drawn)
