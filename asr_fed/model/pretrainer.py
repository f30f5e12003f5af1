"""A model in pre-training, with everything that goes on with it."""

from dataclasses import dataclass
from typing import Any

from asr_fed.config.schema import FeatureConfig, ModelConfig, TaskConfig, TaskKind
from asr_fed.model.best_rq import BestRq
from asr_fed.model.contrastive import Contrastive
from asr_fed.model.typed import plain, typed

KEY = "pretrainer"  # of a checkpoint


@dataclass(frozen=True)
class Pretrainer:
    """Everything that goes on with pre-training: a checkpoint of it needs nothing else."""

    model: BestRq | Contrastive
    model_config: ModelConfig
    features: FeatureConfig
    task: TaskConfig
    seed: int

    @classmethod
    def create(cls, model: ModelConfig, features: FeatureConfig, task: TaskConfig, seed: int) -> "Pretrainer":
        """With fresh weights, drawn from torch's current random state; BEST-RQ's projection and codebook come of `seed`
        alone."""
        if task.kind is TaskKind.contrastive:
            return cls(Contrastive(model, features.n_mels, task), model, features, task, seed)
        return cls(BestRq(model, features.n_mels, task, seed), model, features, task, seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors and values, safe to load with `weights_only`."""
        return {
            "model": {name: tensor.cpu() for name, tensor in self.model.state_dict().items()},
            "model_config": plain(self.model_config),
            "features": plain(self.features),
            "task": plain(self.task),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Pretrainer":
        pretrainer = cls.create(
            typed(ModelConfig, content["model_config"]),
            typed(FeatureConfig, content["features"]),
            typed(TaskConfig, content["task"]),
            int(content["seed"]),
        )
        pretrainer.model.load_state_dict(content["model"])
        return pretrainer
