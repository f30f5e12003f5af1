"""Encoders that others have trained: transformers' modules, computed so that an utterance's states are those that
transformers computes for it alone.

In a batch of transformers the padding is seen at three places: the first convolution's GroupNorm has its mean and
variance over time, data2vec's positional convolutions read what the one before has made of the padding, and an
utterance's samples are normalised by whoever calls. Masks of SpecAugment are left out: they come from numpy's global
random state, and refuse short utterances. asr_fed.training.augment has its own.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from asr_fed.config.pretrained import MEL_HOP, MEL_WINDOW, PretrainedConfig, PretrainedKind
from asr_fed.model.adapters import add_adapters
from asr_fed.model.encoder import positions, silence
from asr_fed.system.errors import UserError

PREFIX = {
    PretrainedKind.wav2vec2: "Wav2Vec2",
    PretrainedKind.hubert: "Hubert",
    PretrainedKind.wavlm: "WavLM",
    PretrainedKind.data2vec_audio: "Data2VecAudio",
    PretrainedKind.whisper: "Whisper",
}
LAYERS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"),
)
SAMPLES = (
    *("layer_norm_eps", "conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_activation"),
    *("feat_proj_dropout", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
)
OF_KIND = {
    PretrainedKind.wav2vec2: ("feat_extract_norm", "do_stable_layer_norm"),
    PretrainedKind.hubert: ("feat_extract_norm", "do_stable_layer_norm", "feat_proj_layer_norm"),
    PretrainedKind.wavlm: ("feat_extract_norm", "do_stable_layer_norm", "num_buckets", "max_bucket_distance"),
    PretrainedKind.data2vec_audio: ("conv_pos_kernel_size",),
}
WHISPER = {  # where Whisper has another name
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "hidden_act": "activation_function",
    "hidden_dropout": "dropout",
    "layerdrop": "encoder_layerdrop",
}
NO_MASKS = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
VARIANCE = 1e-7  # that transformers adds to an utterance's


def names(kind: PretrainedKind) -> dict[str, str]:
    """The settings of PretrainedConfig that encoders of this kind have, with transformers' names."""
    if kind is PretrainedKind.whisper:
        return {name: WHISPER.get(name, name) for name in (*LAYERS, "num_mel_bins", "max_source_positions")}
    return {name: name for name in (*LAYERS, *SAMPLES, *OF_KIND[kind])}


def config_class(kind: PretrainedKind) -> Any:
    """transformers' class of settings. Raises UserError where transformers is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError("Encoders of others need transformers: pip install 'asr_fed[huggingface]'.") from error
    return getattr(transformers, f"{PREFIX[kind]}Config")


def transformers_config(shape: PretrainedConfig) -> Any:
    """The same settings as an object of transformers."""
    given = {theirs: getattr(shape, ours) for ours, theirs in names(shape.model_type).items()}
    given = {name: getattr(value, "value", value) for name, value in given.items()}
    return config_class(shape.model_type)(**given, **NO_MASKS)


def model_class(kind: PretrainedKind) -> Any:
    """transformers' class of the encoder."""
    import transformers

    if kind is PretrainedKind.whisper:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder
    return getattr(transformers, f"{PREFIX[kind]}Model")


def create_pretrained(shape: PretrainedConfig | None, adapters: int = 0) -> "SampleEncoder | WhisperEncoder":
    """An encoder of this shape, with fresh weights, drawn from torch's current random state.

    adapters: neurons of one behind each layer; 0: none.

    Raises UserError where there is no shape, and where transformers is not installed.
    """
    if shape is None:
        raise UserError("model.encoder=pretrained needs model.folder, the encoder's folder in Hugging Face format.")
    if adapters:  # a layer that is dropped takes its adapter with it, and of few layers all may be dropped at once
        shape = replace(shape, layerdrop=0.0)
    encoder = SampleEncoder(shape) if shape.reads_samples else WhisperEncoder(shape)
    layers = encoder.transformer.encoder.layers if shape.reads_samples else encoder.transformer.layers
    add_adapters(layers, shape.hidden_size, adapters)
    return encoder


class SampleEncoder(nn.Module):
    """wav2vec2, HuBERT, WavLM and data2vec: samples [batch, samples, 1] -> states [batch, time, hidden_size], zero
    behind each end."""

    def __init__(self, shape: PretrainedConfig) -> None:
        super().__init__()
        self.shape, self.stride = shape, shape.stride
        self.transformer = model_class(shape.model_type)(transformers_config(shape))
        if shape.model_type is PretrainedKind.data2vec_audio:
            self.transformer.encoder.pos_conv_embed = MaskedPositions(self.transformer.encoder.pos_conv_embed.layers)

    def forward(self, samples: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns states and their number per utterance, int64 [batch]; `frames` counts samples."""
        x = silence(samples[..., 0], frames)
        if self.shape.do_normalize:
            x = silence(standardised(x, frames), frames)
        x = functional.pad(x, (0, max(0, self.shape.field - x.shape[1])))[:, None]
        counts = frames.clamp(min=self.shape.field)
        for layer in self.transformer.feature_extractor.conv_layers:
            counts = (counts - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                x = layer.activation(normalised_over_time(norm, layer.conv(x), counts))
            else:
                x = layer(x)
        projected = self.transformer.feature_projection(x.transpose(1, 2))
        projected = projected[0] if isinstance(projected, tuple) else projected
        real = positions(projected, counts)
        states = self.transformer.encoder(projected, attention_mask=real).last_hidden_state
        return silence(states, counts), counts


class MaskedPositions(nn.Module):
    """data2vec's positional convolutions. Their LayerNorm makes something of nothing, so each one's output is set to
    zero where transformers has set the input to zero: behind an utterance's end."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        real = states.any(dim=-1)[:, None]
        x = states.transpose(1, 2)
        for layer in self.layers:
            x = layer(x) * real
        return x.transpose(1, 2)


def standardised(x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Samples [batch, samples], zero behind each end, with mean 0 and variance 1 before it."""
    real, many = positions(x, counts), counts[:, None]
    mean = x.sum(1, keepdim=True) / many
    variance = ((x - mean).square() * real).sum(1, keepdim=True) / many
    return (x - mean) * (variance + VARIANCE).rsqrt()


def normalised_over_time(norm: nn.GroupNorm, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """GroupNorm with a group for each channel, of x [batch, channels, time], by the `counts` first of each alone."""
    x = x.float()
    real, many = positions(x[:, 0], counts)[:, None], counts[:, None, None]
    mean = (x * real).sum(2, keepdim=True) / many
    variance = ((x - mean).square() * real).sum(2, keepdim=True) / many
    return (x - mean) * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]


class WhisperEncoder(nn.Module):
    """Samples [batch, samples, 1] -> states [batch, time, hidden_size], zero behind each end.

    Whisper's encoder hears windows of one length, 30 s, filled up with zeros; longer speech is several of them.
    """

    window_function: torch.Tensor
    mel: torch.Tensor

    def __init__(self, shape: PretrainedConfig) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.shape, self.stride = shape, shape.stride
        self.transformer = model_class(shape.model_type)(transformers_config(shape))
        self.transformer.embed_positions.requires_grad_(True)  # so that all travels where nothing is frozen
        filters = mel_filter_bank(
            num_frequency_bins=1 + MEL_WINDOW // 2,
            num_mel_filters=shape.num_mel_bins,
            min_frequency=0.0,
            max_frequency=shape.sampling_rate / 2,
            sampling_rate=shape.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("mel", torch.from_numpy(filters.T).float(), persistent=False)
        self.register_buffer("window_function", torch.hann_window(MEL_WINDOW), persistent=False)

    def forward(self, samples: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns states and their number per utterance, int64 [batch]; `frames` counts samples."""
        window = self.shape.max_source_positions * self.stride
        x = silence(samples[..., 0], frames)
        x = functional.pad(x, (0, -x.shape[1] % window)).view(len(x), -1, window)
        heard = torch.arange(x.shape[1], device=x.device) * window < frames.clamp(min=1)[:, None]
        some = self.transformer(self.log_mel(x[heard])).last_hidden_state
        states = some.new_zeros(*heard.shape, *some.shape[1:]).index_put((heard,), some).flatten(1, 2)
        counts = -(-frames.clamp(min=1) // self.stride)
        return silence(states[:, : int(counts.max())], counts), counts

    def log_mel(self, x: torch.Tensor) -> torch.Tensor:
        """Whisper's features of windows [windows, samples]: float32 [windows, mel bands, frames]."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(x.float(), MEL_WINDOW, MEL_HOP, window=self.window_function, return_complex=True)
            decades = (self.mel @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
            loudest = decades.amax(dim=(1, 2), keepdim=True)
            return (torch.maximum(decades, loudest - 8) + 4) / 4
