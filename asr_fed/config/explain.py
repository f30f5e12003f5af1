"""Errors of Hydra and OmegaConf in plain words: which key is wrong, and which was probably meant."""

import difflib
from collections.abc import Iterator

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import CarbonConfig, Config, SimulationConfig


def explain(error: Exception) -> str:
    """A config error of Hydra or OmegaConf in plain words: which key is wrong, and which was probably meant."""
    cause: BaseException = error
    while isinstance(cause, HydraException) and (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = " ".join(str(error).split())
    if isinstance(cause, MissingConfigException):
        return _no_such_choice(cause)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        if cause.full_key in _all_keys():
            return f"{cause.full_key} is not set in the config file: add it with +{cause.full_key}=..."
        where = f" ({str(error).strip().splitlines()[0]})" if "In '" in text else ""
        hint = f" An argument of a _target_ is added with +{cause.full_key}=..." if _in_target(cause.full_key) else ""
        return f"{no_such_key(cause.full_key, where)}{hint}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {(cause.msg or str(cause)).splitlines()[0].rstrip('.')}."
    return text


def no_such_key(key: str, where: str = "") -> str:
    return f"There is no key {key!r}{where}.{nearest(key, _all_keys())}"


def _no_such_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return f"There is no file {error.missing_cfg_file}.yaml that defaults could take."
    choices = list(error.options)
    return f"There is no {group}={name}. It is one of {', '.join(choices)}.{nearest(name, choices)}"


def _in_target(key: str) -> bool:
    return key.rpartition(".")[0].rpartition(".")[2] in ("optimizer", "prepare", "algorithm", "weighting", "server")


def nearest(name: str, known: list[str]) -> str:
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in known}
    found = difflib.get_close_matches(name, known, 1, cutoff=0.6)
    found = found or [by_leaf[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_leaf, 1)]
    return f" Did you mean {found[0]!r}?" if found else ""


def _all_keys() -> list[str]:
    """Every key of the schema, and of the objects in hparams/GROUP/*.yaml."""

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in map(str, node):
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, f"{prefix}{key}.")

    keys = set(walk(OmegaConf.structured(Config(simulation=SimulationConfig(), carbon=CarbonConfig())), ""))
    for path in experiments_folder().glob("*/*.yaml"):
        node, everywhere = OmegaConf.load(path), path.read_text(encoding="utf-8").startswith("# @package _global_")
        if isinstance(node, DictConfig):
            keys |= set(walk(node, "" if everywhere else f"{path.parent.name}."))
    return sorted(keys)
