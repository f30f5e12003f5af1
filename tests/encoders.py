"""Folders of encoders as they come from others, with random weights and of the least size: nothing is downloaded."""

import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from asr_fed.runs.experiment import Experiment, prepare_experiment, settle_encoder
from tests.tiny import Corpus, settings, typed_config

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SAMPLES = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
DATA2VEC = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
TOKENS = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
WHISPER = {
    **{"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 20},
    **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "max_target_positions": 8},
    **{"max_source_positions": 50, "begin_suppress_tokens": None, **TOKENS},  # a window is a second
}
KINDS = {  # by a name for each: its kind and what differs from the smallest of the kind
    "wav2vec2 base": ("wav2vec2", {}),
    "wav2vec2 large": ("wav2vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}),
    "hubert": ("hubert", {"feat_proj_layer_norm": False}),
    "wavlm": ("wavlm", {"num_buckets": 8, "max_bucket_distance": 20}),
    "wavlm large": ("wavlm", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_buckets": 8}),
    "data2vec": ("data2vec_audio", DATA2VEC),
    "whisper": ("whisper", {}),
}
TRAINED = ("model.encoder=pretrained", "features.kind=waveform")


def stock(name: str, seed: int = 3, **changes: Any) -> Any:
    """The model as transformers makes it, in evaluation; of Whisper with its decoder."""
    kind, differing = KINDS[name]
    torch.manual_seed(seed)
    if kind == "whisper":
        return transformers.WhisperModel(transformers.WhisperConfig(**{**WHISPER, **differing, **changes})).eval()
    prefix = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec_audio": "Data2VecAudio"}[kind]
    given = {**LAYERS, **SAMPLES, **differing, **changes}
    return getattr(transformers, f"{prefix}Model")(getattr(transformers, f"{prefix}Config")(**given)).eval()


def write_encoder(folder: Path, name: str = "wav2vec2 base", do_normalize: bool = True, **changes: Any) -> Path:
    """What is published: the model's folder and its preprocessor's settings."""
    transformers.utils.logging.disable_progress_bar()
    stock(name, **changes).save_pretrained(folder)
    told = {"do_normalize": do_normalize, "sampling_rate": 16000, "feature_extractor_type": "Any"}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def pretrained_experiment(corpus: Corpus, prepared: Path, run_dir: Path, folder: Path, *changes: str) -> Experiment:
    """Prepared, not trained."""
    config = typed_config(settings(corpus, prepared, run_dir), *TRAINED, f"model.folder={folder}", *changes)
    settle_encoder(config)
    return prepare_experiment(config)
