"""Refuse a config that cannot be meant, before any work, naming the key."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config, Decoder, Mode, TokenizerKind
from asr_fed.system.errors import UserError

# What types cannot say. Each rule: key, test, what it must be. null passes where a key may be null.
Rule = tuple[str, Callable[[Any], bool], str]


def _at_least(least: float, *keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda v: v is None or v >= least, f"at least {least:g}") for key in keys)


def _positive(*keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda v: v is None or v > 0, "greater than 0") for key in keys)


def _share(*keys: str) -> tuple[Rule, ...]:
    return tuple((key, lambda v: 0 <= v <= 1, "between 0 and 1") for key in keys)


TRAININGS = ("warm_start", "central", "federation")
RANGES: tuple[Rule, ...] = (
    *_share(
        "federation.min_success",
        "loss.ctc_weight",
        "loss.label_smoothing",
        "model.dropout",
        "evaluation.beam_ctc_weight",
    ),
    *_share("data.parts.dev_share", "data.parts.test_share", "federation.clients.dev_fraction"),
    *_share("warm_start.decay_from", "central.decay_from", *(f"{part}.annealing.factor" for part in TRAININGS)),
    *_at_least(
        0,
        "engine.gpus_per_worker",
        "federation.rounds",
        "federation.prox",
        "federation.held_out.epochs",
        "augment.warp_frames",
    ),
    *_at_least(0, *(f"augment.{kind}" for kind in ("time_drops", "frequency_drops"))),
    *_at_least(0, *(f"augment.{kind}" for kind in ("time_drop_frames", "frequency_drop_bands"))),
    *_at_least(0, *(f"{part}.{key}" for part in TRAININGS[:2] for key in ("epochs", "warmup_steps"))),
    *_at_least(0, *(f"{part}.{key}" for part in TRAININGS for key in ("ctc_epochs", "annealing.patience"))),
    *_at_least(0, "evaluation.report_clips", "personalisation.epochs"),
    *_at_least(1, "personalisation.batch.max_utterances"),
    *_at_least(1, *(f"engine.{key}" for key in ("workers", "threads_per_worker", "server_threads", "nodes"))),
    *_at_least(1, "federation.over_commit"),
    *_at_least(1, *(f"federation.{key}" for key in ("local_epochs", "local_steps", "evaluate_every"))),
    *_at_least(1, "federation.fallback_after", "evaluation.beam_size", "features.n_mels", "features.hop_ms"),
    *_at_least(1, *(f"{part}.{key}" for part in TRAININGS[:2] for key in ("early_stop", "evaluate_every"))),
    *_at_least(1, *(f"{part}.batch.max_utterances" for part in (*TRAININGS, "federation.held_out"))),
    *_at_least(1, *(f"model.{key}" for key in ("time_pooling", "rnn_layers", "rnn_neurons", "dnn_blocks"))),
    *_at_least(8, "tokenizer.vocab_size"),
    *_positive("engine.wait", *(f"federation.{key}" for key in ("cohort", "round_timeout", "client_timeout"))),
    *_positive("evaluation.max_seconds_per_batch"),
    *_positive(*(f"personalisation.{key}" for key in ("lr", "clip", "batch.max_seconds"))),
    *_positive(*(f"{part}.{key}" for part in TRAININGS for key in ("lr", "clip"))),
    *_positive("federation.held_out.lr", *(f"{part}.batch.max_seconds" for part in TRAININGS)),
    ("evaluation.beam_eos_threshold", lambda v: v is None or v >= 1, "at least 1, or null"),
    ("augment.speeds", lambda v: len(v) > 0 and all(0.5 <= s <= 2 for s in v), "playback speeds from 0.5 to 2"),
    ("model.cnn_channels", lambda v: len(v) > 0, "a list of the channels of each block"),
    ("model.cnn_kernel", lambda v: len(v) == 2, "two numbers, of bands and of frames"),
)


def check_config(config: DictConfig) -> None:
    """Raises UserError for the first value that is out of range, and for a bad `_target_` or argument of one."""
    missing = sorted(_missing(config, ""))
    if missing:
        raise UserError(f"No value for {', '.join(missing)}: set it in the config file or as {missing[0]}=...")
    for name, test, text in RANGES:
        value = OmegaConf.select(config, name)
        if not test(value):
            raise UserError(f"{name}={value} is not possible: it must be {text}.")
    for path, node in _targets(config, ""):
        _check_target(path, node)
    for group in ("weighting", "server"):
        try:
            instantiate(config[group])
        except Exception as error:
            raise UserError(f"{group}={config[group]} is not possible: {error.__cause__ or error}.") from error
    for name in ("client_decoder", "dev_decoder", "test_decoder"):
        check_decoder(config.evaluation[name], config.loss.ctc_weight, f"evaluation.{name}")
    if config.tokenizer.vocab_size is None and config.tokenizer.kind is not TokenizerKind.char:
        raise UserError(
            f"tokenizer.vocab_size=null is for kind=char, whose pieces are the characters that there are: give a "
            f"number for {config.tokenizer.kind.name}, such as 500."
        )
    if config.personalise and config.mode is Mode.central:
        raise UserError("personalise=true needs clients: use mode=federated, or python -m asr_fed.personalise.")
    if config.personalise and config.federation.clients.dev_fraction == 0:
        raise UserError(
            "personalise=true measures on speech that each client holds back, of which there is none: set "
            "federation.clients.dev_fraction, to 0.2 for instance."
        )
    if config.personalisation.lr is None and "Adam" not in config.personalisation.optimizer["_target_"]:
        raise UserError(
            "The rates that are known are Adam's: with another personalisation.optimizer give a personalisation.lr."
        )
    parts = config.data.parts
    if config.warm_start.checkpoint is None and parts.warm_up_speakers == 0 and parts.warm_up_file is None:
        raise UserError(
            "data.parts.warm_up_speakers=0 leaves nothing to train tokenizer and warm start on: raise it, or give "
            "warm_start=MODEL."
        )


def check_decoder(decoder: Decoder, ctc_weight: float, key: str) -> None:
    """Raises UserError, with the `key` that chose the decoder, where a loss of that weight does not train it."""
    if ctc_weight == 0 and decoder is Decoder.ctc_greedy:
        raise UserError(
            f"{key}={decoder.name} needs the CTC head, which a CTC weight of 0 does not train. Use attention_greedy."
        )
    if ctc_weight == 1 and decoder is not Decoder.ctc_greedy:
        raise UserError(
            f"{key}={decoder.name} needs the attention decoder, which a CTC weight of 1 does not train. Use "
            "ctc_greedy, or a weight below 1."
        )


def explain(error: Exception) -> str:
    """A config error of Hydra or OmegaConf in words: which key, and which was probably meant."""
    cause: BaseException = error
    while isinstance(cause, HydraException) and (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = str(error).strip()
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        if cause.full_key in _all_keys():
            return f"{cause.full_key} is not set in the config file: add it with +{cause.full_key}=..."
        where = f" ({text.splitlines()[0]})" if "In '" in text else ""
        hint = f" An argument of a _target_ is added with +{cause.full_key}=..." if _in_target(cause.full_key) else ""
        return f"There is no key {cause.full_key!r}{where}.{nearest(cause.full_key, _all_keys())}{hint}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {(cause.msg or str(cause)).splitlines()[0]}."
    return text


def _in_target(key: str) -> bool:
    return key.rpartition(".")[0].rpartition(".")[2] in ("optimizer", "prepare", "weighting", "server")


def nearest(name: str, known: list[str]) -> str:
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    found = difflib.get_close_matches(name, known, 1, cutoff=0.6)
    found = found or [by_leaf[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_leaf, 1)]
    return f" Did you mean {found[0]!r}?" if found else ""


def _all_keys() -> list[str]:
    """Every key of the schema, and of the objects that come with asr_fed in hparams/GROUP/*.yaml."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in map(str, node):
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, f"{prefix}{key}.")

    keys = set(walk(OmegaConf.structured(Config), ""))
    for path in experiments_folder().glob("*/*.yaml"):
        node = OmegaConf.load(path)
        if isinstance(node, DictConfig):
            keys |= set(walk(node, f"{path.parent.name}."))
    return sorted(keys)


def _missing(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _missing(child, f"{prefix}{key}.")
        elif OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield f"{prefix}{key}"


def _targets(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig) and not node._is_none():
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            yield from _targets(node._get_node(key), f"{path}.{key}".lstrip("."))
    elif isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from _targets(node._get_node(index), f"{path}[{index}]")


def _check_target(path: str, node: DictConfig) -> None:
    if path.endswith("optimizer") and "lr" in node:
        raise UserError(f"{path}.lr has no effect: the learning rate is {path.removesuffix('optimizer')}lr.")
    try:
        target = get_object(node["_target_"])
    except Exception as error:
        raise UserError(f"{path}._target_={node['_target_']} cannot be imported: {error}") from error
    accepted = _arguments(target)
    for key in map(str, node):
        if key in ("_target_", "_partial_"):
            continue
        if accepted is not None and key not in accepted:
            raise UserError(
                f"There is no key '{path}.{key}': {node['_target_']} takes "
                f"{', '.join(accepted) or 'no arguments'}.{nearest(key, list(accepted))}"
            )
        kind = (accepted or {}).get(key)
        if not _fits(node[key], kind):
            raise UserError(f"{path}.{key}={node[key]!r} is not of type {getattr(kind, '__name__', kind)}.")


def _arguments(target: Any) -> dict[str, Any] | None:
    """Names and types of what a callable takes by keyword; None where it takes anything."""
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    accepted: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            accepted[name] = hints.get(name)
        elif typing.get_origin(hints.get(name)) is typing.Unpack:
            accepted |= typing.get_type_hints(typing.get_args(hints[name])[0])
        else:
            return None
    return accepted


def _fits(value: Any, kind: Any) -> bool:
    """Whether a config value has the annotated type, as far as plain types can tell."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind is type(None):
        return value is None
    return True
