"""A model's federated state as one flat vector: what travels.

The rule depends on the kind of a tensor, never on its name. A parameter travels if it is trainable (`requires_grad`). A
buffer travels if its module has trainable parameters: BatchNorm's running mean and variance go with their module, the
normaliser's statistics with the model. Only floating-point buffers travel; whole numbers are counters of one process.
Server optimizers change the first `parameters` entries; buffers always take the plain mean.

Everything else is the frozen base. It never changes, so all who train need the same base beforehand: they have it, or
are sent it once (`pack_frozen`), and compare `frozen_sha256`.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from asr_fed.config.explain import nearest
from asr_fed.system.errors import UserError


@dataclass(frozen=True)
class StateLayout:
    """Sizes of the tensors in the flat vector: trainable parameters first, then buffers."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    parameters: int

    @property
    def length(self) -> int:
        return sum(self.sizes)

    def variances(self) -> list[tuple[int, int]]:
        """Start and end of each buffer with running variances, as torch calls them in every kind of normalisation."""
        ends = list(itertools.accumulate(self.sizes))
        named = zip(self.names, self.sizes, ends, strict=True)
        return [(end - size, end) for name, size, end in named if name.endswith("running_var")]

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each parameter tensor (not of buffers)."""
        ends = list(itertools.accumulate(self.sizes))
        return [(end - size, end) for end, size in zip(ends, self.sizes, strict=True) if end <= self.parameters]


def freeze(model: nn.Module, names: Sequence[str], key: str = "federation.frozen") -> None:
    """Exclude the modules of these names (as in `model.named_modules()`) from training.

    Raises UserError, which names the `key` of the setting, for an unknown name, and if nothing would be left to train.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            known = [each for each in modules if each]
            raise UserError(f"{key}: the model has no part {name!r}.{nearest(name, known)}")
        modules[name].requires_grad_(False)
    if not trainable(model):
        raise UserError(f"{key} leaves no part of the model to train.")


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that travel, in their order in the flat vector."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that have parameters but no trainable ones."""
    trains = [parameter.requires_grad for parameter in module.parameters()]
    if all(trains):  # also where there are none; most models end here, and each client asks several times
        return []
    if not any(trains):
        return [module]
    return [frozen for child in module.children() for frozen in frozen_modules(child)]


def frozen_base(model: nn.Module) -> dict[str, torch.Tensor]:
    """The frozen tensors that are saved with the model, by name."""
    buffers = {id(buffer) for module in frozen_modules(model) for buffer in module.buffers()}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if id(tensor) in buffers or (isinstance(tensor, nn.Parameter) and not tensor.requires_grad)
    }


def load_frozen(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the model's frozen tensors from `tensors`, in place. Raises UserError if any is missing or does not fit."""
    for name, own in frozen_base(model).items():
        given = tensors.get(name)
        if given is None or given.shape != own.shape or given.dtype != own.dtype:
            found = "nothing" if given is None else f"{given.dtype} {tuple(given.shape)}"
            raise UserError(f"The frozen {name} of the model is {own.dtype} {tuple(own.shape)}, its base has {found}.")
        own.copy_(given)


def frozen_sha256(model: nn.Module) -> str:
    """Hash of the frozen base; empty if nothing is frozen."""
    base = frozen_base(model)
    content = hashlib.sha256()
    for name, tensor in sorted(base.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(_bytes(tensor))
    return content.hexdigest() if base else ""


def pack_frozen(model: nn.Module) -> bytes:
    """The frozen tensors' bytes, one after another by name; empty if nothing is frozen."""
    return b"".join(_bytes(tensor) for _, tensor in sorted(frozen_base(model).items()))


def unpack_frozen(model: nn.Module, content: bytes) -> None:
    """Load what `pack_frozen` made of a model of the same shape, in place. Raises UserError for another size."""
    base = sorted(frozen_base(model).items())
    sizes = [tensor.numel() * tensor.element_size() for _, tensor in base]
    if sum(sizes) != len(content):
        raise UserError(f"{len(content)} bytes for the frozen part of the model, which has {sum(sizes)}.")
    rest = bytearray(content)
    for (_, tensor), size in zip(base, sizes, strict=True):
        own, rest = rest[:size], rest[size:]
        tensor.copy_(torch.frombuffer(own, dtype=tensor.dtype).reshape(tensor.shape))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that travel, by name."""
    parameters = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {id(buffer) for module in frozen_modules(model) for buffer in module.buffers()}
    return parameters | {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if tensor.is_floating_point() and not isinstance(tensor, nn.Parameter) and id(tensor) not in frozen
    }


def layout(model: nn.Module) -> StateLayout:
    tensors = _tensors(model)
    return StateLayout(
        tuple(tensors),
        tuple(tensor.numel() for tensor in tensors.values()),
        sum(parameter.numel() for parameter in trainable(model)),
    )


def read_state(model: nn.Module) -> np.ndarray:
    """float32 [length], a copy."""
    return torch.cat([tensor.detach().reshape(-1).float().cpu() for tensor in _tensors(model).values()]).numpy()


def read_delta(model: nn.Module, weights: np.ndarray) -> np.ndarray:
    """read_state(model) - weights, float32 [length]; on a CPU without a copy of the state in between."""
    tensors = [tensor.detach().reshape(-1).float() for tensor in _tensors(model).values()]
    if tensors[0].device.type != "cpu":
        moved: np.ndarray = read_state(model) - weights
        return moved
    delta, start = np.empty_like(weights), 0
    for tensor in tensors:
        end = start + tensor.numel()
        np.subtract(tensor.numpy(), weights[start:end], out=delta[start:end])
        start = end
    return delta


def load_state(model: nn.Module, vector: np.ndarray) -> None:
    """Write a flat vector into the model's tensors, in place."""
    start = 0
    source = torch.from_numpy(vector)
    for tensor in _tensors(model).values():
        tensor.copy_(source[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
    if start != len(vector):
        raise ValueError(f"the state has {start} numbers, the vector {len(vector)}")


def by_parameter(model: nn.Module, vector: np.ndarray) -> list[torch.Tensor]:
    """A flat vector, float32 [parameters], as tensors of the shapes of the trainable parameters, on their device."""
    parameters = trainable(model)
    parts = torch.from_numpy(vector).split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter).to(parameter.device) for part, parameter in zip(parts, parameters, strict=True)]


def state_sha256(vector: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()
