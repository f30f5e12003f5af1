"""Settings of training, on the server and on clients."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asr_fed.config.setting import setting


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Start(Enum):
    """What central training starts from."""

    scratch = "scratch"
    warm_start = "warm_start"


class Decay(Enum):
    """How a learning rate falls to 0: in a straight line, or along half a cosine."""

    linear = "linear"
    cosine = "cosine"


class Tune(Enum):
    """What of the model is trained, by the rounds or in a client's own copy: all; the layers that write tokens; all
    parameters of one dimension (biases, scales and shifts of normalisation); the adapters of `model.adapters`; or
    low-rank additions to the weights of the linear layers (LoRA)."""

    full = "full"
    head = "head"
    norm_bias = "norm_bias"
    adapters = "adapters"
    lora = "lora"


@dataclass
class AugmentConfig:
    """Pauses and SpecAugment in training, and playback speeds, whose features are cached.

    In a batch, `least_time_drops` to `time_drops` stretches of each utterance are set to zero, each with
    `least_time_drop_frames` to `time_drop_frames` frames (bounds included). Their places differ between utterances. The
    same holds for mel bands.

    Of waveforms `frequency_drops` bands of the spectrum are filtered out, each a tenth of it wide, and nothing is
    warped; a frame is one of `features.hop_ms`.
    """

    speeds: list[float] = setting([1.0], at_least=0.5, at_most=2, items=1)
    pauses: float = setting(0.3, at_least=0, at_most=1)  # share of the batches with pauses around their utterances
    pause_seconds: float = setting(1.0, at_least=0)  # the longest
    time_drops: int = setting(2, at_least=0)
    time_drop_frames: int = setting(20, at_least=0)
    frequency_drops: int = setting(2, at_least=0)
    frequency_drop_bands: int = setting(15, at_least=0)
    least_time_drops: int = setting(0, at_least=0)
    least_time_drop_frames: int = setting(0, at_least=0)
    least_frequency_drops: int = setting(0, at_least=0)
    least_frequency_drop_bands: int = setting(0, at_least=0)
    warp_frames: int = setting(0, at_least=0)


@dataclass
class BatchConfig:
    """A batch ends at `max_utterances`, or where it would exceed `max_seconds` of audio, including padding."""

    max_utterances: int = setting(8, at_least=1)
    max_seconds: float | None = setting(None, above=0)


@dataclass
class LossConfig:
    """ctc_weight * CTC + (1 - ctc_weight) * NLL with label smoothing."""

    ctc_weight: float = setting(0.3, at_least=0, at_most=1)
    label_smoothing: float = setting(0.1, at_least=0, below=1)


@dataclass
class NewBobConfig:
    """lr <- factor * lr if the relative gain of the WER is below `threshold`; `patience` such WERs are tolerated.

    It waits for the first WER below `ceiling`, in percent. Above that nothing is recognised yet, and a WER that stays
    at 99 says nothing about the learning rate.
    """

    factor: float = setting(0.8, above=0, at_most=1)
    threshold: float = setting(0.0025, at_least=0, below=1)
    patience: int = setting(0, at_least=0)
    ceiling: float = setting(90.0, at_least=0)


@dataclass
class CentralConfig:
    """Training on pooled speech: the warm start and the centralised reference."""

    epochs: int = setting(20, at_least=0)
    ctc_epochs: int | None = setting(None, at_least=0)  # how many epochs (the first ones) use CTC; null: all
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.Adam"})
    lr: float = setting(0.001, above=0)
    warmup_steps: int = setting(0, at_least=0)  # linear from 0
    # part of the epochs after which lr falls to 0, in addition to `annealing`; 1: never
    decay_from: float = setting(1.0, at_least=0, at_most=1)
    decay: Decay = Decay.linear
    clip: float = setting(5.0, above=0)
    batch: BatchConfig = field(default_factory=BatchConfig)
    frozen: list[str] = field(default_factory=list)  # parts of the model, such as encoder, that stay as they begin
    annealing: NewBobConfig = field(default_factory=NewBobConfig)
    # epochs at the end, or a share of them, whose weights' mean is the result; null: it is the best epoch on dev
    average_last: int | float | None = setting(None, at_least=1, fraction=True)
    evaluate_every: int = setting(1, at_least=1)  # epochs
    early_stop: int | None = setting(None, at_least=1)  # evaluations without a better WER; null: never


@dataclass
class WarmStartConfig(CentralConfig):
    checkpoint: str | None = None  # run directory, checkpoint or SpeechBrain folder: replaces warm-up training
    encoder: str | None = None  # run directory of a pre-training, which warm-up training starts from


@dataclass
class FineTuneConfig(CentralConfig):
    """Of a recogniser, by a pre-training's encoder and from scratch, on the warm-up speech after the pre-training."""

    epochs: int = setting(0, at_least=0)  # 0: none is trained


@dataclass
class ReferenceConfig(CentralConfig):
    start: Start = Start.scratch
    after_federation: bool = False  # also train it in a federated run, and show it in the same table


@dataclass
class PersonalisationConfig:
    """Fine-tuning of one copy of the recogniser per client, on the client's own speech."""

    part: Tune = Tune.full
    lora_rank: int = setting(8, at_least=1)
    lora_alpha: float = setting(16.0, above=0)
    epochs: int = setting(10, at_least=0)
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.Adam"})
    lr: float | None = setting(None, above=0)  # null: the best one found for the part, see docs/personalisation.md
    clip: float = setting(5.0, above=0)
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(max_utterances=4))
