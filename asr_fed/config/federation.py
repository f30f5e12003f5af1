"""Of the rounds, and of who computes them."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asr_fed.config.data import ClientsConfig
from asr_fed.config.setting import setting
from asr_fed.config.training import BatchConfig, Decay, NewBobConfig


class EngineKind(Enum):
    local = "local"
    ray = "ray"
    deployment = "deployment"


@dataclass
class HeldOutConfig:
    """Training of the server on its own held-out speech after each aggregation."""

    epochs: int = setting(1, at_least=0)  # 0: off
    lr: float = setting(0.01, above=0)
    annealed: bool = False  # lr falls as the clients' does
    replay_warm_up: bool = False  # the warm-up speech belongs to it too
    batch: BatchConfig = field(default_factory=BatchConfig)


@dataclass
class FederationConfig:
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    rounds: int = setting(20, at_least=0)
    # clients a round: a number, a fraction such as 0.1, or null for all
    cohort: int | float | None = setting(None, at_least=1, fraction=True)
    local_epochs: int = setting(5, at_least=1)
    local_steps: int | None = setting(None, at_least=1)  # instead of epochs
    ctc_epochs: int | None = setting(None, at_least=0)  # CTC takes part in the first so many local epochs; null: in all
    # parts of the model, such as encoder.crdnn.CNN, that rounds neither change nor send; the warm start trains all
    frozen: list[str] = field(default_factory=list)
    optimizer: Any = field(default_factory=lambda: {"_target_": "torch.optim.SGD"})
    lr: float = setting(1.0, above=0)
    clip: float = setting(5.0, above=0)
    freeze_batch_norm: bool = False  # clients normalise by the global running statistics, and leave them as they are
    batch: BatchConfig = field(default_factory=BatchConfig)
    annealing: NewBobConfig = field(default_factory=NewBobConfig)
    # part of the rounds after which lr falls to 0, times `annealing`; 1: never
    decay_from: float = setting(1.0, at_least=0, at_most=1)
    decay: Decay = Decay.linear
    # rounds at the end, or a share of them, whose weights' mean is the result; null: it is the best round on dev
    average_last: int | float | None = setting(None, at_least=1, fraction=True)
    # rounds without gain before the best weights return; null: never
    fallback_after: int | None = setting(None, at_least=1)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    evaluate_every: int = setting(1, at_least=1)  # rounds
    round_timeout: float | None = setting(None, above=0)  # seconds after which a round closes with what has arrived
    client_timeout: float | None = setting(None, above=0)  # seconds that a worker may take over one client
    # share of the cohort's weight without which a round does not count
    min_success: float = setting(0.5, at_least=0, at_most=1)
    # sample so many times the cohort, and take the first updates that hold a cohort
    over_commit: float = setting(1.0, at_least=1)


@dataclass
class EngineConfig:
    """Where clients are trained. It does not change the result, but for the threads.

    `local`: worker processes on this machine. `ray`: the same as actors of a Ray cluster. `deployment`: nodes that
    have joined a Flower SuperLink, each with speech of its own or simulated clients.
    """

    kind: EngineKind = EngineKind.local
    # null: by cores; on a GPU by measurement; in a Ray cluster as many as it holds
    workers: int | None = setting(None, at_least=1)
    threads_per_worker: int = setting(1, at_least=1)
    gpus_per_worker: float = setting(0.0, at_least=0)  # ray: what a worker takes of a GPU
    server_threads: int = setting(1, at_least=1)  # part of what makes a run repeatable, as threads_per_worker is
    address: str | None = None  # ray: auto or host:port, null for a cluster of its own; deployment: the SuperLink
    certificates: str | None = None  # deployment: folder with ca.crt; null: no TLS
    nodes: int = setting(1, at_least=1)  # deployment: how many have to join before the first round
    wait: float = setting(600.0, above=0)  # deployment: seconds to wait for them
