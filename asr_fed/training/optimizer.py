"""Optimizers by `_target_`: a config can name any of torch.optim, or a user's own."""

from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from asr_fed.model.state import trainable


def build_optimizer(settings: Any, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = instantiate(settings, trainable(model), lr=lr)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
