"""Of the virtual clock: devices, networks, and what becomes of clients that are late."""

from dataclasses import dataclass, field
from enum import Enum

from asr_fed.config.setting import setting


class Late(Enum):
    """What becomes of a client that would not answer within `tau`: it is waited for, dropped, or does as many steps as
    it has time for."""

    wait = "wait"
    drop = "drop"
    partial = "partial"


class Sampling(Enum):
    """Who is asked: anybody, or rather those who are fast and have much to learn from (Oort, arXiv 2010.06081)."""

    uniform = "uniform"
    oort = "oort"


@dataclass
class MachineConfig:
    """How long a device of slowdown 1 takes, as `python -m asr_fed.simulation.measure` finds it for a machine.

    A model of other than `parameters` parameters takes as many times longer as it is larger.
    """

    parameters: int = setting(at_least=1)
    step_seconds: float = setting(at_least=0)  # of an optimizer step, whatever its batch
    train_seconds: float = setting(above=0)  # of training on a second of audio
    decode_seconds: float = setting(at_least=0)  # of measuring the WER on a second of audio


@dataclass
class OortConfig:
    """Of `sampling=oort`, with the names and defaults of arXiv 2010.06081."""

    alpha: float = setting(2.0, at_least=0)  # how much slowness counts: utility times (preferred / own seconds)^alpha
    exploration: float = setting(0.9, at_least=0, at_most=1)  # share of a cohort that was never asked, in round 1
    exploration_decay: float = setting(0.98, above=0, at_most=1)  # of that share, each round
    least_exploration: float = setting(0.2, at_least=0, at_most=1)
    cutoff: float = setting(0.95, above=0, at_most=1)  # of the last of the best: all above it may be drawn
    preferred_percentile: float = setting(50.0, above=0, at_most=100)  # of the clients' seconds: the preferred time


@dataclass
class SimulationConfig:
    """A table's name (docs/time_and_carbon.md lists them) or a CSV file of one's own."""

    devices: str = "phones"
    network: str = "mobile"  # or a speed both ways in Mbit/s, such as 20, or DOWN/UP, such as 100/20
    latency: float = setting(0.05, at_least=0)  # seconds before the first byte of each transfer
    availability: str | None = None  # null: everybody is always there
    # where clients live, in hours from UTC, equally many in each; the clock begins at 0:00 UTC
    zones: list[float] = setting([0.0], at_least=-12, at_most=14, items=1)
    late: Late = Late.wait
    tau: float | None = setting(None, above=0)  # seconds from being asked to having answered
    # a server step for so many updates, of whatever age: FedBuff, arXiv 2106.06639, with federation.cohort clients at
    # work at any time; null: a round waits for its cohort
    buffer: int | None = setting(None, at_least=1)
    sampling: Sampling = Sampling.uniform
    oort: OortConfig = field(default_factory=OortConfig)
    server_seconds: float = setting(1.0, at_least=0)  # of the server's own work, each round
    reference: MachineConfig = field(default_factory=MachineConfig)
