"""The shape of an encoder that others have trained, under the names that its folder in Hugging Face format has for it.

asr_fed fills it in from `model.folder`. It is part of every checkpoint and of what a node is sent, so that neither
needs the folder.
"""

import math
from dataclasses import dataclass
from enum import Enum

from asr_fed.config.setting import setting

MEL_HOP, MEL_WINDOW = 160, 400  # samples of Whisper's log-mel frames


class PretrainedKind(Enum):
    wav2vec2 = "wav2vec2"
    hubert = "hubert"
    wavlm = "wavlm"
    data2vec_audio = "data2vec-audio"
    whisper = "whisper"


class Activation(Enum):
    gelu = "gelu"
    gelu_new = "gelu_new"
    relu = "relu"
    silu = "silu"
    swish = "swish"


class ConvNorm(Enum):
    """`group`: of the first convolution, over time; `layer`: of each, over channels."""

    group = "group"
    layer = "layer"


@dataclass
class PretrainedConfig:
    """`conv_*`, `feat_*` and `num_conv_pos_*` are of the encoders that read samples; Whisper's encoder makes log-mel
    frames of them, and has `num_mel_bins` and `max_source_positions`."""

    model_type: PretrainedKind = PretrainedKind.wav2vec2
    sampling_rate: int = setting(16000, at_least=1000, at_most=96_000)
    do_normalize: bool = True  # each utterance to mean 0 and variance 1
    hidden_size: int = setting(768, at_least=1, at_most=8192)
    num_hidden_layers: int = setting(12, at_least=1, at_most=128)
    num_attention_heads: int = setting(12, at_least=1, at_most=256)
    intermediate_size: int = setting(3072, at_least=1, at_most=32_768)
    hidden_act: Activation = Activation.gelu
    hidden_dropout: float = setting(0.1, at_least=0, below=1)
    activation_dropout: float = setting(0.1, at_least=0, below=1)
    attention_dropout: float = setting(0.1, at_least=0, below=1)
    layerdrop: float = setting(0.1, at_least=0, below=1)
    layer_norm_eps: float = setting(1e-5, above=0, below=1)
    conv_dim: list[int] = setting([512] * 7, at_least=1, at_most=8192, items=1, most_items=16)
    conv_kernel: list[int] = setting([10, 3, 3, 3, 3, 2, 2], at_least=1, at_most=1024, items=1, most_items=16)
    conv_stride: list[int] = setting([5, 2, 2, 2, 2, 2, 2], at_least=1, at_most=1024, items=1, most_items=16)
    conv_bias: bool = False
    feat_extract_activation: Activation = Activation.gelu
    feat_extract_norm: ConvNorm = ConvNorm.group
    feat_proj_dropout: float = setting(0.0, at_least=0, below=1)
    feat_proj_layer_norm: bool = True  # HuBERT
    do_stable_layer_norm: bool = False  # before each part of a layer instead of behind it
    num_conv_pos_embeddings: int = setting(128, at_least=1, at_most=1024)  # data2vec: layers, with the next as kernel
    conv_pos_kernel_size: int = setting(19, at_least=1, at_most=1024)
    num_conv_pos_embedding_groups: int = setting(16, at_least=1, at_most=1024)
    num_buckets: int = setting(320, at_least=4, at_most=8192)  # WavLM
    max_bucket_distance: int = setting(800, at_least=2, at_most=100_000)
    num_mel_bins: int = setting(80, at_least=1, at_most=1024)
    max_source_positions: int = setting(1500, at_least=1, at_most=100_000)

    @property
    def reads_samples(self) -> bool:
        return self.model_type is not PretrainedKind.whisper

    @property
    def stride(self) -> int:
        """Samples from one state to the next."""
        return math.prod(self.conv_stride) if self.reads_samples else 2 * MEL_HOP

    @property
    def field(self) -> int:
        """Samples that the first state is made of: the least that there have to be."""
        if not self.reads_samples:
            return 1
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            field = (field - 1) * stride + kernel
        return field

    def states(self, samples: int) -> int:
        """How many there are of so many samples. Zeros are added to fewer than `field`."""
        if not self.reads_samples:
            return max(1, -(-samples // self.stride))
        samples = max(samples, self.field)
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def parameters(self) -> int:
        """About how many it has, and not more: biases, norms and WavLM's buckets are left out."""
        wide, channels = self.hidden_size, [1, *self.conv_dim]
        layers = self.num_hidden_layers * wide * (4 * wide + 2 * self.intermediate_size)
        if not self.reads_samples:
            return layers + wide * (3 * self.num_mel_bins + 3 * wide + self.max_source_positions)
        convolutions = sum(
            kernel * before * after
            for kernel, before, after in zip(self.conv_kernel, channels, channels[1:], strict=False)
        )
        data2vec = self.model_type is PretrainedKind.data2vec_audio
        positions = self.num_conv_pos_embeddings * (self.conv_pos_kernel_size if data2vec else 1)
        return layers + convolutions + wide * (channels[-1] + positions * wide // self.num_conv_pos_embedding_groups)
