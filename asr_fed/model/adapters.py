"""Adapters behind the layers of an encoder: small networks that are trained in the layers' place (arXiv 1902.00751).

There is one behind each whole layer, as in arXiv 2005.00247, so that it goes with layers of any make.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

NAME = "adapter"  # of the module in a layer


class Adapter(nn.Module):
    """x + W_up gelu(W_down x). W_up begins at 0, so that the layer begins as it was."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.up(functional.gelu(self.down(x)))
        return y


def add_adapters(layers: Iterable[nn.Module], width: int, size: int) -> None:
    """Put an adapter of `size` neurons behind each layer, in place; none where `size` is 0."""
    if not size:
        return
    for layer in layers:
        layer.add_module(NAME, Adapter(width, size))
        layer.register_forward_hook(adapted)


def adapted(layer: nn.Module, _inputs: Any, output: Any) -> Any:
    """The layer's output behind its adapter, if it has one. Of a tuple that is the first."""
    adapter = getattr(layer, NAME, None)
    if adapter is None:
        return output
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of this name is of an adapter."""
    return f".{NAME}." in name
