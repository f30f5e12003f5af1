"""What an encoder cannot be, and what it cannot read: refused before any work."""

from asr_fed.config.data import FeatureConfig, FeatureKind
from asr_fed.config.model import EncoderKind, ModelConfig
from asr_fed.config.pretrained import PretrainedConfig
from asr_fed.config.training import AugmentConfig
from asr_fed.system.errors import UserError


def check_encoder(model: ModelConfig, features: FeatureConfig, augment: AugmentConfig) -> None:
    """Raises UserError where `model.encoder` cannot be built, or does not read these features."""
    if model.encoder is not EncoderKind.pretrained and (model.folder is not None or model.pretrained is not None):
        raise UserError(
            f"model.folder={model.folder} is an encoder that others have trained, and model.encoder="
            f"{model.encoder.name} is none: set model=pretrained, or model.folder=null."
        )
    if model.adapters and model.encoder is EncoderKind.crdnn:
        raise UserError(
            f"model.adapters={model.adapters} stand behind the layers of a Conformer or of a pretrained encoder: set "
            "it to 0 with a CRDNN."
        )
    check = {EncoderKind.crdnn: _check_bands, EncoderKind.conformer: _check_conformer}.get(model.encoder)
    if check is not None:
        if features.kind is FeatureKind.waveform:
            raise UserError(f"model.encoder={model.encoder.name} reads log-mel frames: set features.kind=log_mel.")
        check(model, features)
        return
    if features.kind is not FeatureKind.waveform:
        raise UserError("model.encoder=pretrained reads waveforms: set features.kind=waveform.")
    if augment.warp_frames:
        raise UserError(
            f"augment.warp_frames={augment.warp_frames} warps log-mel frames, and model.encoder=pretrained reads "
            "waveforms: set it to 0. augment.speeds does the like."
        )
    if model.pretrained is not None:
        _check_pretrained(model.pretrained, features)
    elif model.folder is None:
        raise UserError("model.encoder=pretrained needs model.folder, the encoder's folder in Hugging Face format.")


def _check_bands(model: ModelConfig, features: FeatureConfig) -> None:
    blocks = len(model.cnn_channels)
    if features.n_mels < 2**blocks:
        raise UserError(
            f"features.n_mels={features.n_mels} is too few: each of the {blocks} blocks of model.cnn_channels "
            f"halves the bands, so it must be at least {2**blocks}."
        )


def _check_conformer(model: ModelConfig, features: FeatureConfig) -> None:
    _check_bands(model, features)
    if model.conformer_neurons % (2 * model.conformer_heads):
        raise UserError(
            f"model.conformer_neurons={model.conformer_neurons} must be even for each of the "
            f"model.conformer_heads={model.conformer_heads}: a multiple of {2 * model.conformer_heads}."
        )
    if model.conformer_kernel % 2 == 0:
        raise UserError(
            f"model.conformer_kernel={model.conformer_kernel} must be odd: a state and as many on each side."
        )


def _check_pretrained(shape: PretrainedConfig, features: FeatureConfig) -> None:
    if features.sample_rate != shape.sampling_rate:
        raise UserError(
            f"The encoder was trained on speech of {shape.sampling_rate} Hz: set "
            f"features.sample_rate={shape.sampling_rate}."
        )
    check_shape(shape, "model.pretrained")


def check_shape(shape: PretrainedConfig, where: str) -> None:
    """Raises UserError, which begins with `where`, for sizes that contradict each other."""
    whole = [("num_attention_heads", shape.num_attention_heads)]
    if shape.reads_samples:
        lengths = {len(shape.conv_dim), len(shape.conv_kernel), len(shape.conv_stride)}
        if len(lengths) > 1:
            raise UserError(f"{where}: conv_dim, conv_kernel and conv_stride differ in length.")
        whole.append(("num_conv_pos_embedding_groups", shape.num_conv_pos_embedding_groups))
    for name, parts in whole:
        if shape.hidden_size % parts:
            raise UserError(f"{where}: hidden_size={shape.hidden_size} is no multiple of {name}={parts}.")
