"""Objects that a config names by `_target_`: do they exist, and do they accept their arguments?"""

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from asr_fed.config.explain import nearest
from asr_fed.config.files import choices
from asr_fed.system.errors import UserError

# The methods that an object of each group must have.
METHODS = {
    "algorithm": ("sent", "summed", "init", "client", "step", "server"),
    "weighting": ("__call__",),
    "server": ("init", "apply"),
}


def check_targets(config: DictConfig) -> None:
    """Raises UserError for a `_target_` that cannot be imported, and for an argument that it does not accept.

    Algorithm, weighting, server optimizer and the optimizers of local training are created once as a check.
    """
    for path, node in targets(config):
        _check_target(path, node)
        if path in METHODS:
            made = _make(path, node)
            if not all(callable(getattr(made, name, None)) for name in METHODS[path]):
                raise UserError(_is_no(path, node["_target_"]))
            if getattr(made, "plain_sgd", False) and not _is_plain_sgd(config.federation.optimizer):
                raise UserError(
                    f"{path}={node['_target_']} has the formulas of plain SGD: set "
                    "federation.optimizer={_target_: torch.optim.SGD}, without momentum."
                )
        elif path.endswith("optimizer"):
            import torch  # it was imported with the target

            _make(path, node, [torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def _is_no(group: str, target: str) -> str:
    text = f"{group}._target_={target} cannot be used: it has no {' and no '.join(METHODS[group])}."
    if target.startswith("flwr."):
        text += (
            " Updates are added up before the server sees them, so that Flower's strategies do not apply here. Choose "
            f"server={', '.join(choices('server'))}, and algorithm=fed_prox for FedProx."
        )
    return text


def _is_plain_sgd(optimizer: DictConfig) -> bool:
    return optimizer["_target_"] == "torch.optim.SGD" and not optimizer.get("momentum", 0)


def _make(path: str, node: DictConfig, *arguments: Any, **more: Any) -> Any:
    try:
        return instantiate(node, *arguments, **more)
    except Exception as error:
        shown = OmegaConf.to_container(node, resolve=True)
        raise UserError(f"{path}={shown} is not possible: {error.__cause__ or error}.") from error


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """What has a `_target_`, and where it is in the config."""
    if isinstance(node, DictConfig) and not node._is_none():
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            yield from targets(node._get_node(key), f"{path}.{key}".lstrip("."))
    elif isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from targets(node._get_node(index), f"{path}[{index}]")


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
    """Names and types of the keyword arguments of a callable; None if it takes any."""
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
    """Whether a config value has the annotated type; only plain types are checked."""
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
