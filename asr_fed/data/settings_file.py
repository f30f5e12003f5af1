"""Typed YAML files that people write besides an experiment: a node's, a scenario's."""

import io
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.explain import nearest
from asr_fed.config.setting import check_ranges
from asr_fed.data.text_file import read_text
from asr_fed.system.errors import UserError

Settings = TypeVar("Settings")


def read_settings_file(path: Path, kind: type[Settings], changes: Sequence[str] = ()) -> Settings:
    """The dataclass `kind` from a YAML file, with `changes` such as `federated.rounds=20`.

    Raises UserError, with the file and the key, for a file that is no YAML or not there, for a key that `kind` does
    not have, a value of a wrong type or out of its range, and a value that is missing.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    where = str(path)
    try:
        given = OmegaConf.load(io.StringIO(read_text(path)))
        for change in changes:
            if "=" not in change:
                raise UserError(f"{change} is not key=value.")
        if not isinstance(given, DictConfig):
            raise UserError(f"{path} holds no keys with values.")
        merged = OmegaConf.merge(given, OmegaConf.from_dotlist(list(changes)))
        plain: Any = OmegaConf.to_container(merged)
        _refuse_unknown(plain, kind, "", where)
        settings: Settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), merged))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UserError(f"{where}: {key}{(error.msg or str(error)).splitlines()[0]}") from None
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is not readable as YAML: {error}") from None
    try:
        check_ranges(settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return settings


def _refuse_unknown(given: dict[Any, Any], kind: type, prefix: str, where: str) -> None:
    known = {each.name: each for each in fields(kind)}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{where}: there is no key {f'{prefix}{key}'!r}.{nearest(str(key), list(known))}")
        inner = _dataclass_of(known[key].type)
        if inner is not None and isinstance(value, dict):
            _refuse_unknown(value, inner, f"{prefix}{key}.", where)


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass in a field's type, such as `Centralised | None`."""
    options = [hint, *getattr(hint, "__args__", ())]
    return next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)
