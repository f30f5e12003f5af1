"""The rounds of a federation by the clock of a fleet that is not here.

`asr_fed.simulation` decides before an order is sent who arrives and how much each does: what has been added cannot be
taken out again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hydra.utils import instantiate

from asr_fed.algorithms.algorithm import Algorithm
from asr_fed.config.schema import Config, FederationConfig
from asr_fed.federation.client_app import client_size
from asr_fed.federation.sampling import asked_and_wanted, sample_cohort
from asr_fed.model.recogniser import Recogniser
from asr_fed.model.state import StateLayout, layout
from asr_fed.runs.experiment import Experiment
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.timetable import Timetable, check_tau, plan_cohort
from asr_fed.wire.messages import ClientSize

DOWN_BYTES, UP_BYTES = 4, 8  # of a number: weights are float32, sums of updates int64


@dataclass(frozen=True)
class VirtualTime:
    """The clock of a run, and what a whole round is for each client."""

    clock: Clock
    config: Config
    works: Mapping[str, Work] = field(default_factory=dict)

    @classmethod
    def open(
        cls, config: Config, sizes: Mapping[str, ClientSize], parts: StateLayout, algorithm: Algorithm
    ) -> "VirtualTime | None":
        """None where the config has no simulation.

        Raises UserError for a table that cannot be meant, and a tau below every client's time.
        """
        if config.simulation is None:
            return None
        down = DOWN_BYTES * (parts.length + sum(algorithm.sent(parts).values()))
        up = UP_BYTES * (parts.length + sum(algorithm.summed(parts).values()))
        fleet = Fleet.read(config.simulation, config.seed)
        clock = Clock(config.simulation, fleet, parts.parameters, down, up)
        works = {name: work_of(size, config.federation) for name, size in sizes.items()}
        check_tau(clock, works)
        return cls(clock, config, works)

    def plan(self, server_round: int, begin_s: float) -> Timetable:
        """Raises UserError where nobody ever arrives."""
        settings, seed = self.config.federation, self.config.seed
        asked, wanted = asked_and_wanted(settings, len(self.works))

        def choose(there: Sequence[str], size: int, draw: int) -> list[str]:
            return sample_cohort(sorted(there), size, seed, server_round, draw)

        return plan_cohort(self.clock, server_round, begin_s, self.works, wanted, asked, choose)


def check_virtual_time(experiment: Experiment) -> None:
    """Raises UserError where the simulation cannot be meant for the clients and the model of this experiment."""
    config = experiment.config
    if config.simulation is not None:
        model = Recogniser.create(config.model, config.features, experiment.tokenizer).model
        sizes = {client.id: client_size(client) for client in experiment.partition.clients}
        VirtualTime.open(config, sizes, layout(model), instantiate(config.algorithm))


def work_of(size: ClientSize, settings: FederationConfig) -> Work:
    """A client's whole round. It measures its WER on its dev speech, or on what it trained on where it has none."""
    batch, decoded = settings.batch, size.dev_seconds or size.train_seconds
    an_epoch = math.ceil(size.examples / batch.max_utterances)
    if batch.max_seconds is not None:
        an_epoch = max(an_epoch, math.ceil(size.train_seconds / batch.max_seconds))
    if settings.local_steps is not None:
        return Work(settings.local_steps, size.train_seconds * settings.local_steps / max(1, an_epoch), decoded)
    return Work(settings.local_epochs * an_epoch, settings.local_epochs * size.train_seconds, decoded)
