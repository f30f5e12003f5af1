"""Normaliser and encoder: what a recogniser and a model in pre-training have in common."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from asr_fed.config.schema import EncoderKind, ModelConfig
from asr_fed.model.conformer import Conformer
from asr_fed.model.encoder import Encoder, stride
from asr_fed.model.pretrained import SampleEncoder, WhisperEncoder, create_pretrained


def create_encoder(config: ModelConfig, width: int) -> Encoder | Conformer | SampleEncoder | WhisperEncoder:
    """For frames of `width` numbers, with fresh weights, drawn from torch's current random state."""
    if config.encoder is EncoderKind.pretrained:
        return create_pretrained(config.pretrained, config.adapters)
    return Conformer(config, width) if config.encoder is EncoderKind.conformer else Encoder.create(config, width)


def count_states(config: ModelConfig, frames: int) -> int:
    """States that the encoder of `config` makes of so many frames."""
    return -(-frames // stride(config)) if config.pretrained is None else config.pretrained.states(frames)


def by_state(features: torch.Tensor, stride: int) -> torch.Tensor:
    """Features [batch, frames, n] -> [batch, states, stride x n]: together what one state stands for."""
    padded = functional.pad(features, (0, 0, 0, -features.shape[1] % stride))
    return padded.reshape(len(padded), -1, stride * padded.shape[2])


class Backbone(nn.Module):
    """The normaliser is a pair of fixed buffers (statistics of warm-up speech), so it travels and is hashed with the
    rest of the state. It leaves waveforms as they are."""

    feature_mean: torch.Tensor
    feature_deviation: torch.Tensor

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_deviation", torch.ones(width))
        self.encoder = create_encoder(config, width)

    def set_normaliser(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_deviation.copy_(torch.from_numpy(deviation))

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.feature_mean) / self.feature_deviation
