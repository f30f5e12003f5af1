"""Settings in a checkpoint: written as plain values, read with the types and ranges of their fields."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from omegaconf import OmegaConf

from asr_fed.config.setting import check_ranges

T = TypeVar("T")


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """Settings from a file; each has its field's type and lies in its range.

    A checkpoint may come from anyone, and its settings are written to a file that is executed, SpeechBrain's
    hyperparams.yaml. Raises an exception of OmegaConf, or UserError, for any other value.
    """
    settings: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(values)))  # type: ignore[assignment]
    check_ranges(settings)
    return settings


def plain(settings: Any) -> dict[str, Any]:
    """Values by name that a file can hold: of a choice its name."""
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.name if isinstance(value, Enum) else value
