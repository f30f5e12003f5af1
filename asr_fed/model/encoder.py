"""SpeechBrain's CRDNN, computed so that an utterance does not depend on the others of its batch.

In SpeechBrain, padding influences the CRDNN at three places: convolutions see the frames after an utterance's end
(reflected frames after the longest), the backward LSTM starts in the padding, and BatchNorm counts padded frames.
Parameters and their names are those of SpeechBrain.

An exported folder carries this file's source: nothing of asr_fed is imported here when it runs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from speechbrain.lobes.models.CRDNN import CRDNN
from speechbrain.nnet.RNN import LSTM
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

if TYPE_CHECKING:
    from asr_fed.config.schema import ModelConfig


class Encoder(nn.Module):
    """Features [batch, frames, n_mels] -> states [batch, ceil(frames / stride), dnn_neurons], zero after each
    utterance's end."""

    def __init__(self, crdnn: CRDNN, cnn_kernel: Sequence[int], pool_2d: bool, time_pooling: int) -> None:
        super().__init__()
        self.crdnn = crdnn
        self.block_stride = _block_stride(pool_2d)
        self.time_pooling_size = time_pooling
        # Output frames of silence after the longest utterance. With these, only masked frames reach the reflected edge
        # in the two convolutions of a block.
        self.margin = 2 * max(cnn_kernel)
        self.stride = self.block_stride ** len(crdnn.CNN) * time_pooling

    @classmethod
    def create(cls, config: "ModelConfig", n_mels: int) -> "Encoder":
        """An encoder with fresh weights, drawn from torch's current random state."""
        blocks = len(config.cnn_channels)
        crdnn = CRDNN(
            input_shape=[None, None, n_mels],
            dropout=config.dropout,
            cnn_blocks=blocks,
            cnn_channels=list(config.cnn_channels),
            cnn_kernelsize=tuple(config.cnn_kernel),
            inter_layer_pooling_size=[2] * blocks,
            using_2d_pooling=config.pool_2d,
            time_pooling=config.time_pooling > 1,
            time_pooling_size=config.time_pooling,
            rnn_class=LSTM,
            rnn_layers=config.rnn_layers,
            rnn_neurons=config.rnn_neurons,
            rnn_bidirectional=True,
            rnn_re_init=True,
            dnn_blocks=config.dnn_blocks,
            dnn_neurons=config.dnn_neurons,
        )
        return cls(crdnn, config.cnn_kernel, config.pool_2d, config.time_pooling)

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns states and their number per utterance, int64 [batch]."""
        longest = -(-features.shape[1] // self.stride) + self.margin
        x = functional.pad(features, (0, 0, 0, longest * self.stride - features.shape[1]))
        x = silence(x, frames)[..., None]
        for block in self.crdnn.CNN.values():
            x = convolve(block, x)
            frames = -(-frames // self.block_stride)
            x = silence(x, frames)
        if self.time_pooling_size > 1:
            x = self.crdnn.time_pooling(x)
            frames = -(-frames // self.time_pooling_size)

        x = bidirectional_lstm(self.crdnn.RNN.rnn, x.flatten(2), frames)

        real = positions(x, frames)
        states = self.crdnn.DNN(x[real].unsqueeze(0)).squeeze(0)
        return states.new_zeros(*real.shape, states.shape[-1]).index_put((real,), states), frames


def stride(config: "ModelConfig") -> int:
    """Frames a state of the encoder that `config` makes."""
    frames: int = _block_stride(config.pool_2d) ** len(config.cnn_channels) * config.time_pooling
    return frames


def _block_stride(pool_2d: bool) -> int:
    return 2 if pool_2d else 1


def convolve(block: Any, x: torch.Tensor) -> torch.Tensor:
    """SpeechBrain's CNN block over x [batch, time, bands, channels], 1.4 times as fast for a step of the whole model.

    SpeechBrain passes [batch, channels, bands, time] to torch, which then copies every tensor. With time and bands
    exchanged, in the kernel too, the same memory is in torch's format channels last.
    """
    for conv, norm, activation in (
        (block.conv_1, block.norm_1, block.act_1),
        (block.conv_2, block.norm_2, block.act_2),
    ):
        bands, time = (size // 2 for size in conv.kernel_size)
        x = functional.pad(x.permute(0, 3, 1, 2), (bands, bands, time, time), mode="reflect")
        x = functional.conv2d(x, conv.conv.weight.transpose(2, 3), conv.conv.bias)
        x = activation(norm(x.permute(0, 2, 3, 1)))
    pooled: torch.Tensor = block.drop(block.pooling(x))
    return pooled


def bidirectional_lstm(lstm: nn.LSTM, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`lstm` over padded x [batch, time, features], each utterance from its own start to its own end and back.

    A packed sequence computes the same and is fast with cuDNN, but on a CPU its backward pass takes time quadratic in
    the length. So on a CPU each direction is one plain LSTM, and for the backward direction utterances are reversed in
    place.
    """
    if x.is_cuda:
        lstm.flatten_parameters()
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
    time = torch.arange(x.shape[1], device=x.device)
    turned = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)[:, :, None]
    zero = x.new_zeros(1, x.shape[0], lstm.hidden_size)
    for layer, weights in enumerate(zip(lstm.all_weights[::2], lstm.all_weights[1::2], strict=True)):
        if layer:
            x = functional.dropout(x, lstm.dropout, lstm.training)
        directions = []
        for own, backward in zip(weights, (False, True), strict=True):
            y = x.gather(1, turned.expand_as(x)) if backward else x
            # input, state, weights, biases, layers, dropout, training, bidirectional, batch first
            y = torch.lstm(y, (zero, zero), list[torch.Tensor](own), True, 1, 0.0, lstm.training, False, True)[0]
            directions.append(y.gather(1, turned.expand_as(y)) if backward else y)
        x = torch.cat(directions, dim=-1)
    return x


def positions(x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """bool [batch, time]: True before each utterance's end."""
    return torch.arange(x.shape[1], device=x.device) < frames[:, None]


def silence(x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Set x [batch, time, ...] to zero after each utterance's end."""
    real = positions(x, frames)
    return x * real.reshape(*real.shape, *[1] * (x.dim() - 2))
