"""A CRDNN recogniser as SpeechBrain publishes them, and as `asr_fed.export` writes them, opened as a recogniser of
asr_fed.

The folder holds hyperparams.yaml, asr.ckpt, normalizer.ckpt and tokenizer.ckpt.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.interop.speechbrain.recipe import feature_config, model_config, read_recipe
from asr_fed.interop.speechbrain.widen import widen_tokenizer, widen_weights
from asr_fed.model.recogniser import Recogniser, config_keys
from asr_fed.system.errors import UserError

logger = logging.getLogger(__name__)

HYPERPARAMS = "hyperparams.yaml"
# asr.ckpt is a list of modules: encoder, embedding, decoder, CTC head, decoder head.
OUR_NAMES = {"0": "encoder.crdnn", "1": "embedding", "2": "decoder", "3": "ctc_head", "4": "decoder_head"}
# Arguments with a fixed value in our model: class, argument, SpeechBrain's default, our value.
OURS = (
    ("CRDNN", "rnn_class", "LiGRU", "LSTM"),
    ("CRDNN", "rnn_bidirectional", True, True),
    ("CRDNN", "activation", "LeakyReLU", "LeakyReLU"),
    ("CRDNN", "projection_dim", -1, -1),
    ("CRDNN", "use_rnnp", False, False),
    ("AttentionalRNNDecoder", "rnn_type", None, "gru"),
    ("AttentionalRNNDecoder", "attn_type", None, "location"),
    ("AttentionalRNNDecoder", "num_layers", None, 1),
    ("AttentionalRNNDecoder", "scaling", 1.0, 1.0),
    ("Fbank", "deltas", False, False),
    ("Fbank", "context", False, False),
    ("Fbank", "f_min", 0, 0),
    ("Fbank", "f_max", None, None),
    ("Fbank", "filter_shape", "triangular", "triangular"),
    ("InputNormalization", "norm_type", "global", "global"),
    ("InputNormalization", "mean_norm", True, True),
    ("InputNormalization", "std_norm", True, True),
)
LISTED = 12  # tensors named in an error message


def open_speechbrain_folder(folder: Path) -> Recogniser:
    """The recogniser of a folder; a language model in it is ignored.

    Published recognisers use token 0 for blank, unknown, beginning and end. Ours need 1 and 2 for beginning and end, so
    two tokens are added (`widen_tokenizer`, `widen_weights`).

    Raises UserError if the folder is incomplete, or has a model that asr_fed does not have.
    """
    recipe = read_recipe(folder / HYPERPARAMS)
    for owner, argument, default, ours in OURS:
        theirs = recipe.arguments(owner).get(argument, default)
        if theirs != ours:
            raise UserError(f"{recipe.path}: {argument} of {owner} is {theirs}, in asr_fed it is always {ours}.")
    for name in recipe.loadables() - {"asr", "model", "normalizer", "normalize", "tokenizer"}:
        logger.warning("%s: asr_fed has no %r and leaves it out.", folder, name)
    weights = _load(folder / "asr.ckpt")
    proto = _read_tokenizer(folder / "tokenizer.ckpt")
    tokens = tuple(recipe.anywhere(name, BLANK) for name in ("blank_index", "bos_index", "eos_index"))
    if tokens == (BLANK, BLANK, BLANK):
        proto, weights = widen_tokenizer(proto, folder / "tokenizer.ckpt"), widen_weights(weights)
    elif tokens != (BLANK, BOS, EOS):
        raise UserError(
            f"{recipe.path}: blank, beginning and end of sentence are tokens {tokens}. asr_fed opens recognisers "
            f"with {(BLANK, BOS, EOS)} or {(BLANK, BLANK, BLANK)}."
        )
    features = feature_config(recipe)
    state = {
        f"{OUR_NAMES.get(part, part)}.{rest}": weights[name]
        for name in weights
        for part, _, rest in [name.partition(".")]
    }
    state |= _normaliser(folder / "normalizer.ckpt", features.n_mels)
    recogniser = Recogniser.create(model_config(recipe, weights, folder), features, Tokenizer(proto))
    _check_fit(recogniser, state, folder)
    recogniser.model.load_state_dict(state)
    return recogniser


def _read_tokenizer(path: Path) -> bytes:
    try:
        proto = path.read_bytes()
        Tokenizer(proto)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a SentencePiece model: {error}") from error
    return proto


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in many ways
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named tensors.")
    return content


def _normaliser(path: Path, n_mels: int) -> dict[str, torch.Tensor]:
    statistics = _load(path)
    mean, deviation = (torch.as_tensor(statistics.get(name, ())) for name in ("glob_mean", "glob_std"))
    if not mean.shape == deviation.shape == (n_mels,):
        raise UserError(
            f"{path}: mean and deviation have shapes {tuple(mean.shape)} and {tuple(deviation.shape)}, not "
            f"{(n_mels,)}. asr_fed opens recognisers that are normalised with one mean and deviation per band."
        )
    return {"feature_mean": mean, "feature_deviation": deviation}


def _check_fit(recogniser: Recogniser, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises UserError if tensors are missing, unknown, or of other shapes. The message lists the settings that were
    read."""
    ours = recogniser.model.state_dict()
    wrong = [
        f"{name}: {_shape(state, name)} in the folder, {_shape(ours, name)} in asr_fed"
        for name in sorted(ours.keys() | state.keys())
        if _shape(ours, name) != _shape(state, name)
    ]
    if wrong:
        more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        keys = " ".join(config_keys(recogniser.features, recogniser.model_config))
        raise UserError(
            f"{folder}: {len(wrong)} tensors do not fit: {'; '.join([*wrong[:LISTED], *more])}. Understood from its "
            f"tensors and {HYPERPARAMS}: {keys}, {len(recogniser.tokenizer)} tokens."
        )


def _shape(tensors: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(tensors[name].shape) if name in tensors else "missing"
