"""Every setting of a run, typed. The YAML files under hparams/ fill it in; nothing else adds keys.

Fields typed `Any` hold a `_target_`: an object a user may swap for one of their own. Its other keys are
checked against that object's own signature before any work starts (see `asr_fed.config.check`).
Torch is not imported here, so that `--help` stays quick.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Mode(Enum):
    federated = "federated"
    central = "central"


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class EngineKind(Enum):
    local = "local"
    ray = "ray"
    deployment = "deployment"


class TokenizerKind(Enum):
    unigram = "unigram"
    bpe = "bpe"
    char = "char"


class Tracking(Enum):
    """Where a run's numbers go besides its directory and TensorBoard."""

    mlflow = "mlflow"
    wandb = "wandb"


class Decoder(Enum):
    ctc_greedy = "ctc_greedy"
    attention_greedy = "attention_greedy"
    beam = "beam"


class PersonalPart(Enum):
    """What of the recogniser a client's own copy may change: all, the layers that write tokens, or all biases and
    what normalisation learns."""

    full = "full"
    head = "head"
    norm_bias = "norm_bias"


class Start(Enum):
    """What central training starts from."""

    scratch = "scratch"
    warm_start = "warm_start"


class WarmUpRule(Enum):
    """Which speakers of the training pool warm the model up."""

    most_audio = "most_audio"
    least_audio = "least_audio"
    random = "random"


class Deal(Enum):
    """How speakers are dealt to `ClientsConfig.count` clients."""

    balanced = "balanced"
    dirichlet = "dirichlet"
    group = "group"


class GroupBy(Enum):
    """The column of the manifest that makes clients homogeneous."""

    accent = "accent"
    gender = "gender"
    age = "age"


class TooSmall(Enum):
    """What happens to a client with less audio than `ClientsConfig.min_seconds`."""

    merge = "merge"
    drop = "drop"


@dataclass
class PartsConfig:
    """Who goes where before there are clients.

    The training pool is every speaker whom the corpus puts neither in its dev nor in its test set.

    Test, then dev: the corpus's own (`split` is `test` or `dev`) where it has one; otherwise
    `test_speakers` speakers of the pool drawn at random, or where that is None as many as fit into
    `test_share` of the pool's hours (at least one); the same for dev.

    Warm-up: in the order of `warm_up_rule`, speakers of the pool until there are `warm_up_speakers` of them
    or they hold `warm_up_hours`, whichever comes first (None sets no bound); or exactly the speakers listed
    in `warm_up_file`, one id a line. 0 speakers means no warm-up. The split of arXiv 2104.14297 is
    `warm_up_speakers=117 warm_up_rule=most_audio`.

    Utterances of the pool longer than `max_train_seconds` are dropped; those of the corpus's own dev and test never.

    Held-out (what the server trains on after aggregation): `held_out_speakers` drawn at random from those
    who remain. The rest are for the clients.
    """

    warm_up_speakers: int | None = None
    warm_up_hours: float | None = None
    warm_up_file: str | None = None
    warm_up_rule: WarmUpRule = WarmUpRule.most_audio
    held_out_speakers: int = 0
    dev_speakers: int | None = None
    dev_share: float = 0.1
    test_speakers: int | None = None
    test_share: float = 0.1
    max_train_seconds: float | None = None


@dataclass
class ClientsConfig:
    """How the remaining speakers become clients.

    `count` None gives each speaker a client (cross-device); K deals the speakers to K clients by `deal`:
    `balanced` in hours; `dirichlet`, where the clients' shares of the hours are one draw of a symmetric
    Dirichlet(`alpha`), more skewed the smaller alpha is; `group`, homogeneous in `group_by` as far as K
    allows, hours balanced within a group.

    A client with less than `min_seconds` of audio is dropped, or merged with others as small (of its own
    group first) until the minimum is reached, so that fewer than K clients may remain.

    Each client that has at least `dev_min_utterances` keeps `dev_fraction` of them, at least one and never
    all, as its own dev part.
    """

    count: int | None = None
    deal: Deal = Deal.balanced
    alpha: float = 1.0
    group_by: GroupBy = GroupBy.accent
    min_seconds: float = 0.0
    too_small: TooSmall = TooSmall.merge
    dev_fraction: float = 0.0
    dev_min_utterances: int = 10


@dataclass
class DataConfig:
    name: str = MISSING
    language: str = MISSING
    root: str = MISSING  # the corpus on disk
    prepared: str = "prepared/${data.name}"  # manifest and features: shared by all runs on this corpus
    prepare: Any = None  # `_target_`: a function of data_prep; null: the manifest is there already
    parts: PartsConfig = field(default_factory=PartsConfig)


@dataclass
class FeatureConfig:
    """Log-mel filterbank; durations in milliseconds."""

    sample_rate: int = 16000
    n_mels: int = 80
    n_fft: int = 400
    win_ms: int = 25
    hop_ms: int = 10
    subtract_mean: bool = False  # of each utterance, per band: takes the microphone's colour out


@dataclass
class TokenizerConfig:
    """`vocab_size`: the number of pieces; null for kind=char: every character of the warm-up text."""

    kind: TokenizerKind = TokenizerKind.unigram
    vocab_size: int | None = 500


@dataclass
class ModelConfig:
    """CRDNN encoder, attentional GRU decoder, CTC head (SpeechBrain's modules)."""

    cnn_channels: list[int] = field(default_factory=lambda: [128, 200])
    cnn_kernel: list[int] = field(default_factory=lambda: [3, 3])
    pool_2d: bool = False  # each CNN block halves time as well as frequency
    time_pooling: int = 4  # after the CNN
    rnn_layers: int = 5
    rnn_neurons: int = 1024
    dnn_blocks: int = 2
    dnn_neurons: int = 1024
    embedding: int = 128
    decoder_neurons: int = 1024
    attention_dim: int = 1024
    attention_channels: int = 10
    attention_kernel: int = 100
    dropout: float = 0.15


@dataclass
class AugmentConfig:
    """SpecAugment at training time, and playback speeds whose features are cached."""

    speeds: list[float] = field(default_factory=lambda: [1.0])
    time_drops: int = 2
    time_drop_frames: int = 20
    frequency_drops: int = 2
    frequency_drop_bands: int = 15
    warp_frames: int = 0


@dataclass
class BatchConfig:
    """A batch ends at `max_utterances` or where, padded, it would exceed `max_seconds` of audio."""

    max_utterances: int = 8
    max_seconds: float | None = None


@dataclass
class LossConfig:
    """ctc_weight * CTC + (1 - ctc_weight) * NLL with label smoothing."""

    ctc_weight: float = 0.3
    label_smoothing: float = 0.1


@dataclass
class NewBobConfig:
    """lr <- factor * lr where the WER's relative gain is under `threshold`, `patience` such WERs forgiven."""

    factor: float = 0.8
    threshold: float = 0.0025
    patience: int = 0


@dataclass
class CentralConfig:
    """Training on pooled speech: the warm start and the centralised reference."""

    epochs: int = 20
    ctc_epochs: int | None = None  # CTC takes part in the first so many epochs; null: in all
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.Adam"})
    lr: float = 0.001
    warmup_steps: int = 0  # linear from 0
    decay_from: float = 1.0  # part of the epochs after which lr falls linearly towards 0; 1: never
    clip: float = 5.0
    batch: BatchConfig = field(default_factory=BatchConfig)
    annealing: NewBobConfig = field(default_factory=NewBobConfig)
    evaluate_every: int = 1  # epochs
    early_stop: int | None = None  # evaluations without a better WER; null: never


@dataclass
class WarmStartConfig(CentralConfig):
    checkpoint: str | None = None  # run directory, checkpoint or SpeechBrain folder: no warm-up training then


@dataclass
class ReferenceConfig(CentralConfig):
    start: Start = Start.scratch
    after_federation: bool = False  # train it in a federated run too, and show it in the same table


@dataclass
class HeldOutConfig:
    """Training of the server on its own held-out speech after each aggregation."""

    epochs: int = 1  # 0: off
    lr: float = 0.01
    annealed: bool = False  # lr falls as the clients' does
    replay_warm_up: bool = False  # the warm-up speech belongs to it too
    batch: BatchConfig = field(default_factory=BatchConfig)


@dataclass
class FederationConfig:
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    rounds: int = 20
    cohort: int | float | None = None  # clients a round: a number, a fraction such as 0.1, or null for all
    local_epochs: int = 5
    local_steps: int | None = None  # instead of epochs
    ctc_epochs: int | None = None  # CTC takes part in the first so many local epochs; null: in all
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.SGD"})
    lr: float = 1.0
    clip: float = 5.0
    prox: float = 0.0  # mu of FedProx, arXiv 1812.06127
    batch: BatchConfig = field(default_factory=BatchConfig)
    annealing: NewBobConfig = field(default_factory=NewBobConfig)
    fallback_after: int | None = None  # rounds without gain before the best weights return; null: never
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    evaluate_every: int = 1  # rounds
    round_timeout: float | None = None  # seconds after which a round closes with what has arrived
    client_timeout: float | None = None  # seconds that a worker may take over one client
    min_success: float = 0.5  # share of the cohort's weight without which a round does not count
    over_commit: float = 1.0  # sample so many times the cohort, and take the first updates that hold a cohort


@dataclass
class PersonalisationConfig:
    """Fine-tuning of a copy of the recogniser for each client, on that client's own speech."""

    part: PersonalPart = PersonalPart.full
    epochs: int = 10
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.Adam"})
    lr: float | None = None  # null: the one that was found for the part, see docs/personalisation.md
    clip: float = 5.0
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(max_utterances=4))


# How the settings of EvaluationConfig begin that a beam search reads, and nothing else does.
SEARCH = "beam_"


@dataclass
class EvaluationConfig:
    client_decoder: Decoder = Decoder.ctc_greedy
    dev_decoder: Decoder = Decoder.ctc_greedy
    test_decoder: Decoder = Decoder.beam
    beam_size: int = 10
    beam_ctc_weight: float = 0.4
    # A hypothesis may end where log p(end) is at least so many times that of the likeliest token. null: anywhere,
    # which label smoothing, with its floor under the end's probability, makes too short.
    beam_eos_threshold: float | None = 1.5
    max_seconds_per_batch: float = 200.0
    report_clips: int = 6  # test recordings to listen to in report.html; 0: no speech in it


@dataclass
class EngineConfig:
    """Where clients are trained. It does not change the result, but for the threads.

    `local`: worker processes on this machine. `ray`: the same as actors of a Ray cluster. `deployment`: nodes that
    have joined a Flower SuperLink, each with speech of its own or simulated clients.
    """

    kind: EngineKind = EngineKind.local
    workers: int | None = None  # null: by cores; on a GPU by measurement; in a Ray cluster as many as it holds
    threads_per_worker: int = 1
    gpus_per_worker: float = 0.0  # ray: what a worker takes of a GPU
    server_threads: int = 1  # part of what makes a run repeatable, as threads_per_worker is
    address: str | None = None  # ray: auto or host:port, null for a cluster of its own; deployment: the SuperLink
    certificates: str | None = None  # deployment: folder with ca.crt; null: no TLS
    nodes: int = 1  # deployment: how many have to join before the first round
    wait: float = 600.0  # deployment: seconds to wait for them


@dataclass
class Config:
    run_dir: str = MISSING
    resume: bool = False
    seed: int = 1234
    mode: Mode = Mode.federated
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    precision: Precision = Precision.fp32
    tracking: Tracking | None = None  # to MLflow or Weights & Biases too; null: TensorBoard alone
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    central: ReferenceConfig = field(default_factory=ReferenceConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    weighting: Any = field(default_factory=lambda: {"_target_": "asr_fed.aggregation.weighting.WerSoftmax"})
    server: Any = field(default_factory=lambda: {"_target_": "flwr.serverapp.strategy.FedAvg"})
    personalise: bool = False  # after the last round, each client fine-tunes its own copy and measures what it gains
    personalisation: PersonalisationConfig = field(default_factory=PersonalisationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
