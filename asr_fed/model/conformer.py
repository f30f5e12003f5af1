"""SpeechBrain's Conformer (arXiv 2005.08100), computed so that an utterance does not notice the others of its batch.

As it ships, its depthwise convolution sees what its layers have made of the padding behind an utterance's end. It has
LayerNorm where the paper has BatchNorm, before each part of a layer and behind the last, so that no statistics of a
batch are learned. Its front end is ours: convolutions with a stride, where zeros behind an utterance's end are what
a convolution pads with anyway.
"""

from itertools import pairwise

import torch
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder, ConformerEncoderLayer
from speechbrain.nnet.attention import RelPosEncXL
from torch import nn
from torch.nn import functional

from asr_fed.config.schema import ModelConfig
from asr_fed.model.adapters import adapted, add_adapters
from asr_fed.model.encoder import positions, silence, stride


class Conformer(nn.Module):
    """Features [batch, frames, n_mels] -> states [batch, ceil(frames / stride), neurons], zero behind each end.

    The front end halves the mel bands in each of its blocks, and time with `pool_2d`; then `time_pooling` frames stand
    side by side.
    """

    def __init__(self, config: ModelConfig, n_mels: int) -> None:
        super().__init__()
        self.block_stride = 2 if config.pool_2d else 1
        self.time_pooling_size = config.time_pooling
        self.stride = stride(config)
        channels, bands = [1, *config.cnn_channels], n_mels
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(channels):
            bands = -(-bands // 2)
            self.convolutions.append(nn.Conv2d(before, after, 3, stride=(self.block_stride, 2), padding=1))
            self.norms.append(nn.LayerNorm([bands, after]))
        self.entry = nn.Linear(channels[-1] * bands * config.time_pooling, config.conformer_neurons)
        self.dropout = nn.Dropout(config.dropout)
        self.places = RelPosEncXL(config.conformer_neurons)
        self.layers = ConformerEncoder(
            num_layers=config.conformer_layers,
            d_model=config.conformer_neurons,
            d_ffn=config.conformer_ffn,
            nhead=config.conformer_heads,
            kernel_size=config.conformer_kernel,
            dropout=config.dropout,
            attention_type="RelPosMHAXL",
        )
        add_adapters(self.layers.layers, config.conformer_neurons, config.adapters)

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns states and their number per utterance, int64 [batch]."""
        x = silence(features, frames)[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(x)  # [batch, channels, time, bands]
            frames = -(-frames // self.block_stride)
            x = functional.gelu(norm(x.permute(0, 2, 3, 1)))
            x = silence(x, frames).permute(0, 3, 1, 2)
        x = x.permute(0, 2, 3, 1).flatten(2)
        x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.time_pooling_size))
        x = x.reshape(x.shape[0], -1, self.time_pooling_size * x.shape[2])
        frames = -(-frames // self.time_pooling_size)

        x = self.dropout(self.entry(x))
        padding, places = ~positions(x, frames), self.places(x)
        for layer in self.layers.layers:
            x = adapted(layer, x, _layer(layer, x, padding, places))
        return silence(self.layers.norm(x), frames), frames


def _layer(layer: ConformerEncoderLayer, x: torch.Tensor, padding: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """SpeechBrain's layer, whose convolution reads zeros where there is `padding` (bool [batch, time])."""
    x = x + 0.5 * layer.ffn_module1(x)
    y = layer.norm1(x)
    attended, _ = layer.mha_layer(y, y, y, key_padding_mask=padding, pos_embs=places)
    x = x + attended
    module = layer.convolution_module
    y = module.bottleneck(module.layer_norm(x).transpose(1, 2)).masked_fill(padding[:, None], 0.0)
    x = x + module.after_conv(module.conv(y).transpose(1, 2))
    out: torch.Tensor = layer.norm2(x + 0.5 * layer.ffn_module2(x))
    return out
