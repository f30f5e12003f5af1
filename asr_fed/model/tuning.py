"""Which part of a model is trained: by the rounds, where the rest is frozen and does not travel
(asr_fed.model.state), or in a client's own copy.

LoRA (arXiv 2106.09685): a weight W stays as it is, and W + alpha / rank * B A takes its place, of which A and B are
trained. torch's parametrisations do that for any weight, the attention's own ones too, which peft does not reach.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from asr_fed.config.schema import FederationConfig, Tune
from asr_fed.model.adapters import is_of_adapter
from asr_fed.model.state import freeze, trainable
from asr_fed.system.errors import UserError

HEADS = ("ctc_head.", "decoder_head.")


class LowRank(nn.Module):
    """W -> W + alpha / rank * B A. B begins at 0, so that the model begins as it was; A is the same wherever drawn."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        drawn = torch.empty(rank, columns).uniform_(-1, 1, generator=torch.Generator().manual_seed(columns))
        self.down = nn.Parameter((drawn / math.sqrt(columns)).to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.scale = alpha / rank

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * self.up @ self.down


def train_only(model: nn.Module, settings: FederationConfig) -> None:
    """Take out of training, in place, what `frozen` names and all that is not `tune`.

    Raises UserError for a name that the model does not have, and where nothing would be left to train.
    """
    freeze(model, settings.frozen)
    keep_part(model, settings.tune, settings.lora_rank, settings.lora_alpha, "federation.tune")


@dataclass(frozen=True)
class Added:
    """LoRA on a weight. order: the module's own parameters, as they come in the model's state."""

    module: nn.Module
    weight: str
    order: tuple[str, ...]

    def merge(self) -> None:
        """Into the weight, which is then the module's as before."""
        parametrize.remove_parametrizations(self.module, self.weight)
        for name in self.order:  # what was taken out and put back has become the last
            parameter = getattr(self.module, name)
            delattr(self.module, name)
            setattr(self.module, name, parameter)


def keep_part(model: nn.Module, part: Tune, lora_rank: int, lora_alpha: float, key: str) -> list[Added]:
    """Of what is trained take out, in place, all that is not of the part. Returns where LoRA was added.

    Raises UserError, which names the `key` of the setting, where nothing would be left to train.
    """
    if part is Tune.full:
        return []
    before, added = {id(parameter) for parameter in trainable(model)}, []
    for name, parameter in model.named_parameters():
        kept = {
            Tune.head: name.startswith(HEADS),
            Tune.norm_bias: parameter.ndim == 1,
            Tune.adapters: is_of_adapter(name),
            Tune.lora: False,
        }[part]
        parameter.requires_grad_(kept and id(parameter) in before)
    if part is Tune.lora:
        for module in list(model.modules()):
            name = "in_proj_weight" if hasattr(module, "in_proj_weight") else "weight"
            weight = getattr(module, name, None)
            if not isinstance(module, nn.Linear) and name == "weight":
                continue
            if isinstance(weight, nn.Parameter) and id(weight) in before and min(weight.shape) > lora_rank:
                order = tuple(each for each, _ in module.named_parameters(recurse=False))
                added.append(Added(module, name, order))
                parametrize.register_parametrization(module, name, LowRank(weight, lora_rank, lora_alpha))
    if not trainable(model):
        raise UserError(f"{key}={part.name} leaves no part of the model to train.")
    return added


def is_partial(settings: FederationConfig) -> bool:
    """Whether there is a frozen base."""
    return bool(settings.frozen) or settings.tune is not Tune.full


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of the same model without LoRA, into whose weights it is merged. Other parametrisations stay, such
    as the weight norm of wav2vec2."""
    state = model.state_dict()
    for name, module in model.named_modules():
        for weight, chain in getattr(module, "parametrizations", {}).items():
            if any(isinstance(each, LowRank) for each in chain):
                own = f"{name}." if name else ""
                for part in chain.state_dict():
                    del state[f"{own}parametrizations.{weight}.{part}"]
                state[own + weight] = getattr(module, weight).detach()
    return state
