"""BEST-RQ (arXiv 2202.01855): an encoder learns to predict random codes of the speech that it is not shown.

A frame's code is the entry of a random codebook that is nearest to a random projection of its features. Both are drawn
once, from the run's seed, and never trained: they do not travel, and whoever trains compares their hash.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from asr_fed.config.schema import FeatureConfig, ModelConfig, TaskConfig
from asr_fed.model.backbone import Backbone
from asr_fed.model.encoder import silence
from asr_fed.model.typed import plain, typed
from asr_fed.system.randomness import derived_seed

LEAST_DEVIATION = 0.01  # of a band that does not move; features have about 1


class RandomProjectionQuantiser(nn.Module):
    """Vectors [..., features] -> codes [...]: argmin_i || norm(c_i) - norm(A x) || (formula 1), which is where their
    product is largest. A is Xavier-initialised, the codebook c drawn from a normal distribution."""

    def __init__(self, features: int, config: TaskConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(derived_seed(seed, "quantiser"))
        bound = math.sqrt(6 / (features + config.code_dim))
        projection = bound * (2 * torch.rand(features, config.code_dim, generator=generator) - 1)
        codebook = torch.randn(config.codebook_size, config.code_dim, generator=generator)
        self.projection = nn.Parameter(projection, requires_grad=False)
        self.codebook = nn.Parameter(functional.normalize(codebook, dim=-1), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (functional.normalize(x @ self.projection, dim=-1) @ self.codebook.T).argmax(-1)


class BestRq(Backbone):
    """Normaliser, encoder, a linear layer that predicts codes, and the quantiser that makes them."""

    def __init__(self, config: ModelConfig, n_mels: int, task: TaskConfig, seed: int) -> None:
        super().__init__(config, n_mels)
        self.head = nn.Linear(config.states, task.codebook_size)
        self.quantiser = RandomProjectionQuantiser(n_mels * self.encoder.stride, task, seed)
        self.level_codes = task.level_codes

    def codes(self, normalised: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Of features [batch, frames, n_mels]: int64 [batch, states], one for as many frames as a state stands for."""
        stride = self.encoder.stride
        if self.level_codes:
            normalised = level(normalised, frames)
        padded = functional.pad(normalised, (0, 0, 0, -normalised.shape[1] % stride))
        codes: torch.Tensor = self.quantiser(padded.reshape(len(padded), -1, stride * padded.shape[2]))
        return codes

    def predict(self, masked: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [masked states, codebook] from normalised features in which the states of `mask` are not to be seen.

        `mask` is bool [batch, states].
        """
        states, _ = self.encoder(masked, frames)
        logits: torch.Tensor = self.head(states[:, : mask.shape[1]][mask]).float()
        return logits


def level(features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Features [batch, frames, n_mels], each band with mean 0 and deviation 1 over each utterance, 0 after its end."""
    counts = frames[:, None, None]
    centred = silence(features - silence(features, frames).sum(1, keepdim=True) / counts, frames)
    deviation = (centred.square().sum(1, keepdim=True) / counts).sqrt()
    return centred / deviation.clamp_min(LEAST_DEVIATION)


@dataclass(frozen=True)
class Pretrainer:
    """Everything that goes on with pre-training: a checkpoint of it needs nothing else."""

    model: BestRq
    model_config: ModelConfig
    features: FeatureConfig
    task: TaskConfig
    seed: int

    @classmethod
    def create(cls, model: ModelConfig, features: FeatureConfig, task: TaskConfig, seed: int) -> "Pretrainer":
        """With fresh weights, drawn from torch's current random state; projection and codebook come of `seed` alone."""
        return cls(BestRq(model, features.n_mels, task, seed), model, features, task, seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors and values, safe to load with `weights_only`."""
        return {
            "model": {name: tensor.cpu() for name, tensor in self.model.state_dict().items()},
            "model_config": plain(self.model_config),
            "features": plain(self.features),
            "task": plain(self.task),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Pretrainer":
        pretrainer = cls.create(
            typed(ModelConfig, content["model_config"]),
            typed(FeatureConfig, content["features"]),
            typed(TaskConfig, content["task"]),
            int(content["seed"]),
        )
        pretrainer.model.load_state_dict(content["model"])
        return pretrainer
