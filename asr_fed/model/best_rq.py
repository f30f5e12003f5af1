"""BEST-RQ (arXiv 2202.01855): an encoder learns to predict random codes of the speech that it is not shown.

A frame's code is the entry of a random codebook that is nearest to a random projection of its features. Both are drawn
once, by the server from the run's seed, and never trained. They travel once, with the setup.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from asr_fed.config.schema import ModelConfig, TaskConfig
from asr_fed.model.backbone import Backbone, by_state
from asr_fed.model.encoder import silence
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
        with torch.autocast(x.device.type, enabled=False):  # in bf16 some vectors would have other codes
            return (functional.normalize(x.float() @ self.projection, dim=-1) @ self.codebook.T).argmax(-1)


class BestRq(Backbone):
    """Normaliser, encoder, a linear layer that predicts codes, and the quantiser that makes them."""

    def __init__(self, config: ModelConfig, n_mels: int, task: TaskConfig, seed: int) -> None:
        super().__init__(config, n_mels)
        self.head = nn.Linear(config.states, task.codebook_size)
        self.quantiser = RandomProjectionQuantiser(n_mels * self.encoder.stride, task, seed)
        self.level_codes = task.level_codes

    def codes(self, normalised: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Of features [batch, frames, n_mels]: int64 [batch, states], one for as many frames as a state stands for."""
        if self.level_codes:
            normalised = level(normalised, frames)
        codes: torch.Tensor = self.quantiser(by_state(normalised, self.encoder.stride))
        return codes

    def guess(
        self, masked: torch.Tensor, clean: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [masked states, codebook], and the right codes, int64 [masked states].

        masked, clean: normalised features [batch, frames, n_mels], without and with the states of `mask`, which is bool
        [batch, states]; frames: int64 [batch].
        """
        states, _ = self.encoder(masked, frames)
        logits: torch.Tensor = self.head(states[:, : mask.shape[1]][mask]).float()
        return logits, self.codes(clean, frames)[mask]


def level(features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Features [batch, frames, n_mels], each band with mean 0 and deviation 1 over each utterance, 0 after its end."""
    counts = frames[:, None, None]
    centred = silence(features - silence(features, frames).sum(1, keepdim=True) / counts, frames)
    deviation = (centred.square().sum(1, keepdim=True) / counts).sqrt()
    return centred / deviation.clamp_min(LEAST_DEVIATION)
