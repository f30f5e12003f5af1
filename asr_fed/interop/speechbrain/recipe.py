"""SpeechBrain's hyperparams.yaml read as data: nothing that it names is imported or called."""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from asr_fed.config.schema import FeatureConfig, ModelConfig
from asr_fed.data.text_file import read_text
from asr_fed.system.errors import UserError


@dataclass(frozen=True)
class Tagged:
    """A node with a tag of SpeechBrain: `!new:package.Class` and its arguments, `!ref <key>`."""

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
        """The arguments of the class `owner`, with references resolved. Raises UserError if the class is not used."""
        for node in _nodes(self.tree):
            if node.tag.startswith("!new:") and node.name == owner and isinstance(node.value, dict):
                return {name: self._plain(value) for name, value in node.value.items()}
        raise UserError(f"{self.path} has no {owner}: it is not of a recogniser that asr_fed can open.")

    def anywhere(self, argument: str, default: Any) -> Any:
        """The value of this name, at the top level or among the arguments of any class."""
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
            if key in seen or key not in self.tree:  # expressions are not supported: we need none
                raise UserError(f"{self.path}: the reference {value.value} leads nowhere that asr_fed understands.")
            return self._plain(self.tree[key], (*seen, key))
        if isinstance(value, Tagged):
            return value.name
        if isinstance(value, str) and re.fullmatch(r"\([\d\s,.-]*\)", value):  # SpeechBrain's notation of tuples
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
    """Sizes are read from the tensors, the rest (pooling, dropout) from the recipe."""

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
