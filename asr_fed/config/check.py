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
from asr_fed.config.schema import Config
from asr_fed.errors import UserError

# What types cannot say. Each: key, test, what it must be.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("loss.ctc_weight", lambda v: 0 <= v <= 1, "between 0 and 1"),
    ("loss.label_smoothing", lambda v: 0 <= v < 1, "between 0 and 1"),
    ("augment.speeds", lambda v: len(v) > 0 and all(0.5 <= s <= 2 for s in v), "playback speeds from 0.5 to 2"),
    ("tokenizer.vocab_size", lambda v: v >= 8, "at least 8"),
    ("engine.workers", lambda v: v >= 1, "at least 1"),
    ("engine.threads_per_worker", lambda v: v >= 1, "at least 1"),
    ("engine.server_threads", lambda v: v >= 1, "at least 1"),
    ("evaluation.beam_size", lambda v: v >= 1, "at least 1"),
    ("evaluation.beam_ctc_weight", lambda v: 0 <= v <= 1, "between 0 and 1"),
    ("federation.rounds", lambda v: v >= 0, "0 or more"),
    ("federation.cohort", lambda v: v is None or v > 0, "a number of clients, a fraction such as 0.1, or null"),
    ("federation.local_epochs", lambda v: v >= 1, "at least 1"),
    ("federation.local_steps", lambda v: v is None or v >= 1, "at least 1, or null"),
    ("federation.lr", lambda v: v > 0, "greater than 0"),
    ("federation.prox", lambda v: v >= 0, "0 or more"),
    ("federation.evaluate_every", lambda v: v >= 1, "at least 1"),
    ("federation.round_timeout", lambda v: v is None or v > 0, "seconds, or null"),
    ("federation.fallback_after", lambda v: v is None or v >= 1, "at least 1, or null"),
    ("federation.held_out.epochs", lambda v: v >= 0, "0 or more"),
    *(
        (f"{part}.{key}", test, text)
        for part in ("warm_start", "central")
        for key, test, text in (
            ("epochs", lambda v: v >= 0, "0 or more"),
            ("lr", lambda v: v > 0, "greater than 0"),
            ("decay_from", lambda v: 0 <= v <= 1, "a fraction of the epochs"),
            ("evaluate_every", lambda v: v >= 1, "at least 1"),
        )
    ),
    *(
        (f"{part}.{key}", test, text)
        for part in ("warm_start", "central", "federation")
        for key, test, text in (
            ("clip", lambda v: v > 0, "greater than 0"),
            ("annealing.factor", lambda v: 0 < v <= 1, "between 0 and 1"),
            ("batch.max_utterances", lambda v: v >= 1, "at least 1"),
            ("batch.max_seconds", lambda v: v is None or v > 0, "seconds, or null"),
        )
    ),
)


def check_config(config: DictConfig) -> None:
    """Raises UserError for the first value that is out of range, and for a bad `_target_` or argument of one."""
    missing = sorted(OmegaConf.missing_keys(config))
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
    parts = config.data.parts
    if config.warm_start.checkpoint is None and parts.warm_up_speakers == 0 and parts.warm_up_file is None:
        raise UserError(
            "data.parts.warm_up_speakers=0 leaves nothing to train tokenizer and warm start on: raise it, or give "
            "warm_start.checkpoint=FILE."
        )


def explain(error: Exception) -> str:
    """A config error of Hydra or OmegaConf in words: which key, and which was probably meant."""
    cause: BaseException = error
    while isinstance(cause, HydraException) and (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = str(error).strip()
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        where = f" ({text.splitlines()[0]})" if "In '" in text else ""
        return f"There is no key {cause.full_key!r}{where}.{_nearest(cause.full_key, _all_keys())}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {(cause.msg or str(cause)).splitlines()[0]}."
    return text


def _nearest(name: str, known: list[str]) -> str:
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
                f"{', '.join(accepted) or 'no arguments'}.{_nearest(key, list(accepted))}"
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
