"""What a server sends a node that joins: the part of its config that local training depends on, and the tokenizer."""

from omegaconf import OmegaConf

from asr_fed.runs.experiment import OpenRun
from asr_fed.wire.messages import SharedConfig

# No section that names a path or a machine. The node adds its own data, device and engine.
SHARED = (
    *("task", "seed", "precision", "features", "tokenizer", "model", "augment", "loss"),
    *("federation", "algorithm", "weighting", "personalise", "personalisation", "evaluation"),
)


def shared_config(run: OpenRun, base: str = "") -> SharedConfig:
    """The same for every process that opened the same run, on any machine.

    `base` is the hash of what is frozen in the model; empty where nothing is.
    """
    config = OmegaConf.structured(run.config)
    shared = OmegaConf.create({name: config[name] for name in SHARED})
    shared.model.folder = None  # a node has the encoder's shape, and its weights with the rest of the model
    return SharedConfig(OmegaConf.to_yaml(shared, resolve=True, sort_keys=True), run.tokenizer.proto, base)
