"""Normaliser and encoder: what a recogniser and a model in pre-training have in common."""

import numpy as np
import torch
from torch import nn

from asr_fed.config.schema import EncoderKind, ModelConfig
from asr_fed.model.conformer import Conformer
from asr_fed.model.encoder import Encoder


def create_encoder(config: ModelConfig, n_mels: int) -> Encoder | Conformer:
    """With fresh weights, drawn from torch's current random state."""
    conformer = config.encoder is EncoderKind.conformer
    return Conformer(config, n_mels) if conformer else Encoder.create(config, n_mels)


class Backbone(nn.Module):
    """The normaliser is a pair of fixed buffers (statistics of warm-up speech), so it travels and is hashed with the
    rest of the state."""

    feature_mean: torch.Tensor
    feature_deviation: torch.Tensor

    def __init__(self, config: ModelConfig, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(n_mels))
        self.register_buffer("feature_deviation", torch.ones(n_mels))
        self.encoder = create_encoder(config, n_mels)

    def set_normaliser(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_deviation.copy_(torch.from_numpy(deviation))

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.feature_mean) / self.feature_deviation
