"""A CRDNN recogniser as SpeechBrain publishes them, and as `asr_fed.export` writes them, opened as one of ours.

The folder holds hyperparams.yaml, asr.ckpt, normalizer.ckpt and tokenizer.ckpt. The first is read as data: whatever
it would have SpeechBrain import and call is neither imported nor called.
"""

import ast
import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from asr_fed.config.schema import FeatureConfig, ModelConfig
from asr_fed.data.text_file import read_text
from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.model.recogniser import Recogniser, config_keys
from asr_fed.system.errors import UserError

logger = logging.getLogger(__name__)

HYPERPARAMS = "hyperparams.yaml"
# asr.ckpt is a list of modules: encoder, embedding, decoder, CTC head, decoder head.
OUR_NAMES = {"0": "encoder.crdnn", "1": "embedding", "2": "decoder", "3": "ctc_head", "4": "decoder_head"}
# What our model has always: class, argument, SpeechBrain's default, ours.
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
NEVER = -30.0  # a bias: e^-30 is less than float32 sees beside a probability of 1
# A serialised SentencePiece model is a sequence of fields, pieces first, where a later value of a setting takes the
# place of an earlier one. So these can be put in and added at the end. (The wheel's own sentencepiece_model_pb2 needs
# a newer protobuf than Flower permits.)
CONTROL_PIECES = b"\x0a\x07\x0a\x03<s>\x18\x03\x0a\x08\x0a\x04</s>\x18\x03"  # pieces {piece, type: CONTROL}
TRAINER_SPEC = b"\x12\x06\xc8\x02\x01\xd0\x02\x02"  # trainer_spec {bos_id: 1, eos_id: 2}
LISTED = 12  # tensors of an error message


def open_speechbrain_folder(folder: Path) -> Recogniser:
    """The recogniser of a folder; an LM beside it is left out.

    Published recognisers use token 0 as blank, unknown, beginning and end alike. Ours need 1 and 2 for the latter
    two, so theirs are given two tokens more (`widen_tokenizer`, `widen_weights`).

    Raises UserError where the folder is not whole, or is of a model that asr_fed does not have.
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


@dataclass(frozen=True)
class Tagged:
    """A node that SpeechBrain would make something of: `!new:package.Class` and its arguments, `!ref <key>`."""

    tag: str
    value: Any

    @property
    def name(self) -> str:
        """Class or function, without its package."""
        return self.tag.rpartition(".")[2]


@dataclass(frozen=True)
class Recipe:
    """The content of hyperparams.yaml as plain data."""

    path: Path
    tree: dict[str, Any]

    def arguments(self, owner: str) -> dict[str, Any]:
        """What the class `owner` is called with, references resolved. Raises UserError where it is not in use."""
        for node in _nodes(self.tree):
            if node.tag.startswith("!new:") and node.name == owner and isinstance(node.value, dict):
                return {name: self._plain(value) for name, value in node.value.items()}
        raise UserError(f"{self.path} has no {owner}: it is not of a recogniser that asr_fed can open.")

    def anywhere(self, argument: str, default: Any) -> Any:
        """The value of this name, at the top or among anyone's arguments."""
        for node in (Tagged("", self.tree), *_nodes(self.tree)):
            if isinstance(node.value, dict) and argument in node.value:
                return self._plain(node.value[argument])
        return default

    def loadables(self) -> set[str]:
        """Names of what SpeechBrain loads from NAME.ckpt."""
        return set(self.arguments("Pretrainer").get("loadables") or {})

    def _plain(self, value: Any, seen: tuple[str, ...] = ()) -> Any:
        if isinstance(value, Tagged) and value.tag in ("!ref", "!copy"):
            key = str(value.value).strip("<> ")
            if key in seen or key not in self.tree:  # also an expression, which we need none of
                raise UserError(f"{self.path}: the reference {value.value} leads nowhere that asr_fed understands.")
            return self._plain(self.tree[key], (*seen, key))
        if isinstance(value, Tagged):
            return value.name
        if isinstance(value, str) and re.fullmatch(r"\([\d\s,.-]*\)", value):  # their notation of tuples
            return list(ast.literal_eval(value))
        return value


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Keeps tags that it does not know, as data."""


def _tagged(loader: _PlainLoader, tag: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(tag, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(tag, loader.construct_sequence(node, deep=True))
    return Tagged(tag, loader.construct_scalar(node))


_PlainLoader.add_multi_constructor("", _tagged)


def read_recipe(path: Path) -> Recipe:
    """Raises UserError where the file is no YAML."""
    try:
        tree = yaml.load(read_text(path), Loader=_PlainLoader)  # noqa: S506  # a SafeLoader that keeps tags as text
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a hyperparameter file of SpeechBrain.")
    return Recipe(path, tree)


def _nodes(value: Any) -> Iterator[Tagged]:
    if isinstance(value, Tagged):
        yield value
        value = value.value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(child)


def feature_config(recipe: Recipe) -> FeatureConfig:
    given = recipe.arguments("Fbank")
    ours = {name: value for name in ("subtract_mean", "mean_gate_db") for value in [recipe.anywhere(name, ...)]}
    return FeatureConfig.saved(
        {
            "sample_rate": given.get("sample_rate", 16000),
            "n_mels": given.get("n_mels", 40),
            "n_fft": given.get("n_fft", 400),
            "win_ms": given.get("win_length", 25),
            "hop_ms": given.get("hop_length", 10),
            **{name: value for name, value in ours.items() if value is not ...},
        }
    )


def model_config(recipe: Recipe, weights: dict[str, torch.Tensor], folder: Path) -> ModelConfig:
    """What tensors show is read from them, the rest (pooling, dropout) from the recipe."""

    def size(name: str, dimension: int) -> int:
        if name not in weights or weights[name].dim() <= dimension:
            raise UserError(
                f"{folder / 'asr.ckpt'} has no tensor {name}: it is not of a recogniser that asr_fed can open."
            )
        return weights[name].shape[dimension]

    def numbered(pattern: str) -> list[str]:
        return list(itertools.takewhile(weights.__contains__, map(pattern.format, itertools.count())))

    first = "0.CNN.block_0.conv_1.conv.weight"
    given = recipe.arguments("CRDNN")
    pooling = given.get("inter_layer_pooling_size", [2, 2])
    if set(pooling) != {2}:
        raise UserError(f"{recipe.path}: inter_layer_pooling_size of CRDNN is {pooling}, in asr_fed always 2 a block.")
    return ModelConfig(
        cnn_channels=[size(name, 0) for name in numbered("0.CNN.block_{}.conv_1.conv.weight")],
        cnn_kernel=[size(first, 2), size(first, 3)],
        pool_2d=given.get("using_2d_pooling", False),
        time_pooling=given.get("time_pooling_size", 2) if given.get("time_pooling", False) else 1,
        rnn_layers=len(numbered("0.RNN.rnn.weight_hh_l{}")),
        rnn_neurons=size("0.RNN.rnn.weight_hh_l0", 1),
        dnn_blocks=len(numbered("0.DNN.block_{}.linear.w.weight")),
        dnn_neurons=size("0.DNN.block_0.linear.w.weight", 0),
        embedding=size("1.Embedding.weight", 1),
        decoder_neurons=size("4.w.weight", 1),
        attention_dim=size("2.attn.mlp_enc.weight", 0),
        attention_channels=size("2.attn.conv_loc.weight", 0),
        attention_kernel=size("2.attn.conv_loc.weight", 2) // 2,
        dropout=given.get("dropout", 0.15),
    )


def widen_tokenizer(proto: bytes, path: Path) -> bytes:
    """The SentencePiece model with pieces <s> and </s> at 1 and 2; all others but the first move up by two.

    Raises UserError where it has pieces for beginning and end already, in places that recognisers do not use.
    """
    processor = Tokenizer(proto).processor
    special = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if special != (BLANK, -1, -1):
        raise UserError(
            f"{path}: unknown, beginning and end of sentence are pieces {special}. Beside a recogniser whose blank is "
            f"also its beginning and end, asr_fed expects {(BLANK, -1, -1)}."
        )
    first = 2 + proto[1]  # bytes of the first field: its number and type, its length, the piece
    return proto[:first] + CONTROL_PIECES + proto[first:] + TRAINER_SPEC


def widen_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows 1 and 2, beginning and end of sentence, for every tensor with a row a token.

    What token 0 was to the attention decoder, as input the beginning and as output the end, 1 and 2 are then. Tokens
    that a head must not speak weigh nothing but a bias that leaves them no probability: they cost no hypothesis
    anything, and can still be trained.
    """
    wide = dict(weights)
    for name, silent in (
        ("1.Embedding.weight", []),
        *((f"3.w.{kind}", [BOS, EOS]) for kind in ("weight", "bias")),  # CTC speaks blanks
        *((f"4.w.{kind}", [BLANK, BOS]) for kind in ("weight", "bias")),  # attention speaks ends
    ):
        if name in weights:
            wide[name] = torch.cat([weights[name][:1], weights[name][:1], weights[name]])
            wide[name][silent] = NEVER if name.endswith("bias") else 0.0
    return wide


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
            f"{(n_mels,)}. asr_fed opens recognisers that are normalised with one mean and deviation a band."
        )
    return {"feature_mean": mean, "feature_deviation": deviation}


def _check_fit(recogniser: Recogniser, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises UserError where tensors are missing, too many, or of other shapes, with all that was understood."""
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
