"""Settings of the rounds, and of the workers."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asr_fed.config.data import ClientsConfig
from asr_fed.config.pseudo_labels import PseudoLabelsConfig
from asr_fed.config.setting import setting
from asr_fed.config.training import BatchConfig, Decay, NewBobConfig, Tune


class EngineKind(Enum):
    local = "local"
    ray = "ray"
    deployment = "deployment"


@dataclass
class HeldOutConfig:
    """Training on the server's own held-out speech after each aggregation.

    steps: an epoch ends after so many, for rounds that are short beside the server's speech; each round draws its own.
    null: all of the speech.
    optimizer: a new one in each round; null: the clients'. Named, it stays, with its lr, when the clients' is changed.
    """

    epochs: int = setting(1, at_least=0)  # 0: off
    steps: int | None = setting(None, at_least=1)
    optimizer: Any = None
    lr: float = setting(0.01, above=0)
    annealed: bool = False  # lr falls as the clients' does
    replay_warm_up: bool = False  # train on the warm-up speech, too, so that it is not forgotten (rehearsal)
    batch: BatchConfig = field(default_factory=BatchConfig)


class Rule(Enum):
    """How nodes' changes become one.

    mean: weighted, as in FedAvg. median: of each entry over nodes, all alike. trimmed_mean: of each entry without the
    `trim` share of nodes at either end (both: Yin et al., arXiv 1803.01498). multi_krum: the plain mean of those nodes
    whose changes others come closest to, where up to `liars` nodes lie; of buffers the median (Blanchard et al., arXiv
    1703.02757).
    """

    mean = "mean"
    median = "median"
    trimmed_mean = "trimmed_mean"
    multi_krum = "multi_krum"


@dataclass
class RobustConfig:
    """Against nodes that lie; for engine=deployment, where a node is a member.

    clip: the largest L2 norm that a node's mean change of the parameters may have; a longer one is shortened to it.
    clip_median: the same as a multiple of the usual norm: the median over a round's nodes, of which the median over
    five rounds; from three nodes on. Nodes whose change is 0 do not count. Buffers (running means and variances) and
    the algorithm's further vectors likewise. 3 with engine=deployment.
    node_share: the largest share of a cohort that clients of one node may be, but each node may always have one; a
    cohort is smaller where the nodes are too few for that. null: as many as sampling draws.
    """

    rule: Rule = Rule.mean
    trim: float = setting(0.2, at_least=0, below=0.5)
    liars: int = setting(1, at_least=0)  # of multi_krum, which needs 2 x liars + 3 nodes in each round
    clip: float | None = setting(None, above=0)
    clip_median: float | None = setting(None, above=0)
    node_share: float | None = setting(None, above=0, at_most=1)

    @property
    def on(self) -> bool:
        return self != RobustConfig(trim=self.trim, liars=self.liars)


@dataclass
class UploadConfig:
    """How coarse what a client sends of its training is. Sums travel in as few bytes as they need, in any case.

    bits: of an entry with its sign, on a grid for each tensor; null: all. keep: the share of the entries that are sent,
    the largest. error_feedback: what was not sent stays with the client's owner, and is added to the next update.
    """

    bits: int | None = setting(None, at_least=2, at_most=24)
    keep: float = setting(1.0, above=0, at_most=1)
    error_feedback: bool = False

    @property
    def coarse(self) -> bool:
        return self.bits is not None or self.keep < 1


@dataclass
class DownloadConfig:
    """How coarse the weights are that clients are sent, and train from; the server keeps all bits of its own.

    bits: of each parameter, 16 for bfloat16; null: all 32. Buffers have 32.
    """

    bits: int | None = setting(None, at_least=16, at_most=16)


@dataclass
class FederationConfig:
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    rounds: int = setting(20, at_least=0)
    # clients per round: a number, a fraction such as 0.1, or null for all
    cohort: int | float | None = setting(None, at_least=1, fraction=True)
    local_epochs: int = setting(5, at_least=1)
    local_steps: int | None = setting(None, at_least=1)  # instead of epochs
    ctc_epochs: int | None = setting(None, at_least=0)  # how many local epochs (the first ones) use CTC; null: all
    # parts of the model, such as encoder.crdnn.CNN, that rounds neither change nor send; the warm start trains all
    frozen: list[str] = field(default_factory=list)
    tune: Tune = Tune.full
    lora_rank: int = setting(8, at_least=1)
    lora_alpha: float = setting(16.0, above=0)
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.SGD"})
    lr: float = setting(1.0, above=0)
    clip: float = setting(5.0, above=0)
    freeze_batch_norm: bool = False  # clients normalise by the global running statistics, and leave them as they are
    batch: BatchConfig = field(default_factory=BatchConfig)
    annealing: NewBobConfig = field(default_factory=NewBobConfig)
    # part of the rounds after which lr falls to 0, in addition to `annealing`; 1: never
    decay_from: float = setting(1.0, at_least=0, at_most=1)
    decay: Decay = Decay.linear
    # rounds at the end, or a share of them, whose weights' mean is the result; null: it is the best round on dev
    average_last: int | float | None = setting(None, at_least=1, fraction=True)
    # rounds without gain before the best weights return; null: never
    fallback_after: int | None = setting(None, at_least=1)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    pseudo_labels: PseudoLabelsConfig = field(default_factory=PseudoLabelsConfig)
    upload: UploadConfig = field(default_factory=UploadConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    evaluate_every: int = setting(1, at_least=1)  # rounds
    round_timeout: float | None = setting(None, above=0)  # seconds after which a round closes with what has arrived
    client_timeout: float | None = setting(None, above=0)  # seconds that a worker may take over one client
    # smallest share of the cohort's weight, or of its silos, with which a round counts
    min_success: float = setting(0.5, at_least=0, at_most=1)
    # sample this many times the cohort, and use the first updates that make up a cohort
    over_commit: float = setting(1.0, at_least=1)
    # deployment: a server step for so many clients' updates, of whatever age (FedBuff, arXiv 2106.06639); nodes are
    # asked again as soon as they have answered, with `cohort` clients at work at any time. null: rounds wait for all
    buffer: int | None = setting(None, at_least=1)
    robust: RobustConfig = field(default_factory=RobustConfig)


@dataclass
class EngineConfig:
    """Where clients are trained. Only the numbers of threads can change the result.

    `local`: worker processes on this machine. `ray`: workers as actors of a Ray cluster. `deployment`: nodes that have
    joined a Flower SuperLink, each with its own speech or with simulated clients.
    """

    kind: EngineKind = EngineKind.local
    # null: by cores; on a GPU by measurement; in a Ray cluster as many as fit
    workers: int | None = setting(None, at_least=1)
    threads_per_worker: int = setting(1, at_least=1)
    gpus_per_worker: float = setting(0.0, at_least=0)  # ray: what a worker takes of a GPU
    server_threads: int = setting(1, at_least=1)  # like threads_per_worker, it can change the last bits of the result
    address: str | None = None  # ray: auto or host:port, null for its own cluster; deployment: the SuperLink
    certificates: str | None = None  # deployment: folder with ca.crt; null: no TLS
    nodes: int = setting(1, at_least=1)  # deployment: how many nodes have to join before the first round
    wait: float = setting(600.0, above=0)  # deployment: seconds to wait for them
