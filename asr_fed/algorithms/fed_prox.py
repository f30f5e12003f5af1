"""FedProx, arXiv 1812.06127: a proximal term keeps clients near the global weights."""

from dataclasses import dataclass

import torch
from torch import nn

from asr_fed.algorithms.algorithm import ClientStep, Kept, Vectors
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.model.state import trainable
from asr_fed.training.local import LocalTask, train_client


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg whose local loss has the term mu / 2 * ||y - w||^2."""

    mu: float = 0.01

    def client(self, task: LocalTask, sent: Vectors, kept: Kept) -> ClientStep:
        def penalty(model: nn.Module, anchors: list[torch.Tensor]) -> torch.Tensor:
            distances = [(y - w).pow(2).sum() for y, w in zip(trainable(model), anchors, strict=True)]
            return self.mu / 2 * torch.stack(distances).sum()

        return ClientStep(train_client(task, penalty=penalty))
