"""A config from somebody else may name objects, and naming one is to run it: only classes that are trusted.

It is read as data besides: no interpolation, which could read the environment, and no other key of Hydra.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from asr_fed.system.errors import UserError

# Beginnings of names; each goes up to the class's own.
TRUST = (
    "torch.optim.",
    "asr_fed.aggregation.weighting.",
    *(f"asr_fed.algorithms.{name}." for name in ("fed_avg", "fed_prox", "scaffold", "diloco", "mime_lite", "fed_vssl")),
)


def check_trust(value: Any, trust: Sequence[str], where: str) -> None:
    """Raises UserError for an interpolation, and for an object but of a class that begins with an entry of `trust`.

    `where` says whose list that is: "this node's trust".
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_":
                _check_target(inner, trust, where)
            elif str(key).startswith("_") and key != "_partial_":
                raise UserError(f"a config with the key {key!r:.40}")
            check_trust(inner, trust, where)
    elif isinstance(value, list):
        for inner in value:
            check_trust(inner, trust, where)
    elif isinstance(value, str) and "${" in value:
        raise UserError("a config with an interpolation")


def check_run_trust(objects: Any, more: Sequence[str], run_dir: Path | None) -> None:
    """A run directory may come from anybody: what of its config is made here, `objects`, has to be in TRUST or `more`.

    Raises UserError.
    """
    try:
        check_trust(objects, [*TRUST, *more], "--trust")
    except UserError as error:
        raise UserError(f"{run_dir} has {error}. Add its module to --trust if you know it to do no harm.") from None


def _check_target(target: object, trust: Sequence[str], where: str) -> None:
    # One name behind the beginning: torch.optim.adam.torch.hub.load begins with torch.optim. too.
    trusted = isinstance(target, str) and any(
        target.startswith(beginning) and target.removeprefix(beginning).isidentifier() for beginning in trust
    )
    if not trusted:
        raise UserError(f"a config that names {target!r:.80}, which is not in {where}")
    try:
        found = get_object(str(target))
    except Exception as error:
        raise UserError(f"a config that names {target!r:.80}, which is not installed here") from error
    if not isinstance(found, type):
        raise UserError(f"a config that names {target!r:.80}, which is not a class")
