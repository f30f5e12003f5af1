"""Every setting of a run, typed. The YAML files under hparams/ fill it in; nothing else adds keys.

Fields typed `Any` hold a `_target_`: an object that users can replace by their own. Its other keys are checked against
the signature of that object before any work (see `asr_fed.config.targets`). Torch is not imported here, so that
`--help` is fast.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from asr_fed.config.carbon import CarbonConfig, Communication
from asr_fed.config.data import (
    ClientsConfig,
    DataConfig,
    Deal,
    FeatureConfig,
    FeatureKind,
    GroupBy,
    PartsConfig,
    TooSmall,
    WarmUpRule,
)
from asr_fed.config.federation import (
    DownloadConfig,
    EngineConfig,
    EngineKind,
    FederationConfig,
    HeldOutConfig,
    UploadConfig,
)
from asr_fed.config.model import (
    SEARCH,
    Decoder,
    EncoderKind,
    EvaluationConfig,
    ModelConfig,
    TokenizerConfig,
    TokenizerKind,
)
from asr_fed.config.pseudo_labels import PseudoLabelsConfig
from asr_fed.config.setting import setting
from asr_fed.config.simulation import Late, MachineConfig, OortConfig, Sampling, SimulationConfig
from asr_fed.config.task import TaskConfig, TaskKind
from asr_fed.config.training import (
    AugmentConfig,
    BatchConfig,
    CentralConfig,
    Decay,
    FineTuneConfig,
    LossConfig,
    NewBobConfig,
    PersonalisationConfig,
    Precision,
    ReferenceConfig,
    Start,
    Tune,
    WarmStartConfig,
)

__all__ = [
    "SEARCH",
    "AugmentConfig",
    "BatchConfig",
    "CarbonConfig",
    "CentralConfig",
    "ClientsConfig",
    "Communication",
    "Config",
    "DataConfig",
    "Deal",
    "Decay",
    "Decoder",
    "DownloadConfig",
    "EncoderKind",
    "EngineConfig",
    "EngineKind",
    "EvaluationConfig",
    "FeatureConfig",
    "FeatureKind",
    "FederationConfig",
    "FineTuneConfig",
    "GroupBy",
    "HeldOutConfig",
    "Late",
    "LossConfig",
    "MachineConfig",
    "Mode",
    "ModelConfig",
    "NewBobConfig",
    "OortConfig",
    "PartsConfig",
    "PersonalisationConfig",
    "Precision",
    "PseudoLabelsConfig",
    "ReferenceConfig",
    "Sampling",
    "SimulationConfig",
    "Start",
    "TaskConfig",
    "TaskKind",
    "TokenizerConfig",
    "TokenizerKind",
    "TooSmall",
    "Tracking",
    "Tune",
    "UploadConfig",
    "WarmStartConfig",
    "WarmUpRule",
]


class Mode(Enum):
    federated = "federated"
    central = "central"


class Tracking(Enum):
    """Where a run's numbers are sent besides its directory and TensorBoard."""

    mlflow = "mlflow"
    wandb = "wandb"


@dataclass
class Config:
    run_dir: str = MISSING
    resume: bool = False
    seed: int = setting(1234)
    mode: Mode = Mode.federated
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Precision = Precision.fp32
    tracking: Tracking | None = None  # also to MLflow or Weights & Biases; null: TensorBoard only
    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    central: ReferenceConfig = field(default_factory=ReferenceConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    algorithm: Any = field(default_factory=lambda: {"_target_": "asr_fed.algorithms.fed_avg.FedAvg"})
    weighting: Any = field(default_factory=lambda: {"_target_": "asr_fed.aggregation.weighting.WerSoftmax"})
    server: Any = field(default_factory=lambda: {"_target_": "asr_fed.aggregation.server_optimizer.FedAvg"})
    personalise: bool = False  # after the last round each client fine-tunes its own copy and measures the gain
    personalisation: PersonalisationConfig = field(default_factory=PersonalisationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    simulation: SimulationConfig | None = None  # a virtual clock: how long it would take on such devices
    carbon: CarbonConfig | None = None  # what it would emit on the devices of its clock
