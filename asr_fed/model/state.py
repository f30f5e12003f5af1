"""A model's federated state as one flat vector.

The rule, by kind and never by name: every floating-point tensor of the state dict travels (parameters, BatchNorm's
running mean and variance, the normaliser's statistics); whole-number tensors are counters of the process that
holds them and stay. Server optimizers treat the first `parameters` entries; buffers always take the plain mean.
"""

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class StateLayout:
    """Sizes of the tensors in the flat vector: trainable parameters first, then buffers."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    parameters: int

    @property
    def length(self) -> int:
        return sum(self.sizes)

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each parameter tensor (not of buffers)."""
        ends = list(itertools.accumulate(self.sizes))
        return [(end - size, end) for end, size in zip(ends, self.sizes, strict=True) if end <= self.parameters]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    floating = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    every_name = dict(model.named_parameters(remove_duplicate=False))  # of tied parameters too
    return parameters | {name: tensor for name, tensor in floating.items() if name not in every_name}


def layout(model: nn.Module) -> StateLayout:
    tensors = _tensors(model)
    return StateLayout(
        tuple(tensors),
        tuple(tensor.numel() for tensor in tensors.values()),
        sum(parameter.numel() for parameter in model.parameters()),
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
    """A flat vector, float32 [parameters], as tensors of the shapes of the model's parameters, on their device."""
    parameters = list(model.parameters())
    parts = torch.from_numpy(vector).split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter).to(parameter.device) for part, parameter in zip(parts, parameters, strict=True)]


def state_sha256(vector: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()
