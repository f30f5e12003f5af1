"""The rounds of a federation by the clock of a fleet that is not here.

`asr_fed.simulation` decides before an order is sent who arrives and how much each does: what has been added cannot be
taken out again.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from torch import nn

from asr_fed.aggregation.buffer import check_buffer
from asr_fed.aggregation.codec import EXACT_BYTES, download_bytes, upload_bytes
from asr_fed.algorithms.algorithm import Algorithm
from asr_fed.algorithms.mime_lite import MimeLite
from asr_fed.config.schema import Config, FederationConfig, Sampling
from asr_fed.federation.client_app import client_size
from asr_fed.federation.sampling import asked_and_wanted, sample_cohort
from asr_fed.federation.state import FederationState
from asr_fed.model.state import layout
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.buffered import plan_buffers
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.oort import Memory, choose_by_utility
from asr_fed.simulation.record import read_client_times
from asr_fed.simulation.timetable import Timetable, check_tau, plan_cohort
from asr_fed.tasks.learners import create_learner
from asr_fed.wire.messages import ClientSize


@dataclass(frozen=True)
class VirtualTime:
    """The clock of a run, and for each client the work of a whole round; for Oort its seconds and utterances too.

    Clients are sorted by name.
    """

    clock: Clock
    config: Config
    works: Mapping[str, Work]
    seconds: Mapping[str, float]
    examples: Mapping[str, int]

    @classmethod
    def open(
        cls, config: Config, sizes: Mapping[str, ClientSize], model: nn.Module, algorithm: Algorithm
    ) -> "VirtualTime | None":
        """None where the config has no simulation.

        Raises UserError for a table that is wrong, and a tau below every client's time.
        """
        if config.simulation is None:
            return None
        parts = layout(model)
        down = download_bytes(parts.length, parts.parameters, bits=config.federation.download.bits)
        down += EXACT_BYTES * sum(algorithm.sent(parts).values())
        upload = config.federation.upload
        up = round(upload_bytes(parts.length, bits=upload.bits, keep=upload.keep))
        up += EXACT_BYTES * sum(algorithm.summed(parts).values())
        fleet = Fleet.read(config.simulation, config.seed)
        parameters = sum(parameter.numel() for parameter in model.parameters())  # those that are frozen cost time too
        clock = Clock(config.simulation, fleet, parameters, down, up)
        works = {name: work_of(sizes[name], config.federation, algorithm) for name in sorted(sizes)}
        check_tau(clock, works)
        if config.simulation.buffer is not None:
            check_buffer("simulation.buffer", config.simulation.buffer, len(works), algorithm.sent(parts))
        if config.simulation.sampling is not Sampling.oort:  # there may be a million
            return cls(clock, config, works, {}, {})
        seconds = {name: clock.course(name, work).total_s for name, work in works.items()}
        return cls(clock, config, works, seconds, {name: size.examples for name, size in sizes.items()})

    def timetables(self, done: int, at_s: float, memory: Memory) -> Iterator[Timetable]:
        """Of the rounds after round `done`, which ended at `at_s`; `memory` is of all rounds before the one asked for.

        Raises UserError where nobody ever arrives.
        """
        config = self.config
        assert config.simulation is not None
        asked, wanted = asked_and_wanted(config.federation, len(self.works))
        if config.simulation.buffer is not None:
            steps = plan_buffers(self.clock, self.works, asked, config.simulation.buffer, config.seed)
            yield from islice(steps, done, None)
        for server_round in itertools.count(done + 1):
            choose = partial(self._choose, server_round, memory)
            table = plan_cohort(self.clock, server_round, at_s, self.works, wanted, asked, choose)
            at_s = table.round.end_s
            yield table

    def _choose(self, server_round: int, memory: Memory, there: Sequence[str], size: int, draw: int) -> list[str]:
        simulation, seed = self.clock.settings, self.config.seed
        if simulation.sampling is Sampling.uniform:
            return sample_cohort(there, size, seed, server_round, draw)
        return choose_by_utility(
            there,
            size,
            memory=memory,
            seconds=self.seconds,
            examples=self.examples,
            settings=simulation.oort,
            seed=seed,
            server_round=server_round,
            draw=draw,
        )


def remember(run_dir: Path, history: Iterable[RoundRecord]) -> Memory:
    """Who took part in which round, and the mean loss of that round, from what a run has left so far."""
    losses, memory = {record.round: record.loss for record in history}, Memory()
    for each in read_client_times(run_dir):
        if each.arrived:
            memory.add(each.round, [each.client], losses[each.round])
    return memory


def past_weights(state: FederationState, timetable: Timetable | None) -> dict[int, np.ndarray]:
    """The weights that clients who are still at work were sent, by how many server steps had then been made."""
    versions = frozenset[int]() if timetable is None else timetable.in_flight
    return {version: state.weights if version == state.round else state.past[version] for version in sorted(versions)}


def virtual_time(experiment: Experiment) -> VirtualTime | None:
    """Of an experiment whose clients are on this machine. None where its config has no simulation.

    Raises UserError where the simulation does not fit its clients and its model.
    """
    config = experiment.config
    if config.simulation is None:
        return None
    model = create_learner(config, experiment.tokenizer).model
    sizes = {client.id: client_size(client) for client in experiment.partition.clients}
    train_only(model, config.federation)
    return VirtualTime.open(config, sizes, model, instantiate(config.algorithm))


def work_of(size: ClientSize, settings: FederationConfig, algorithm: Algorithm) -> Work:
    """A client's whole round. It measures its WER on its dev speech, or on what it trained on where it has none."""
    batch, decoded = settings.batch, size.dev_seconds or size.train_seconds
    an_epoch = math.ceil(size.examples / batch.max_utterances)
    if batch.max_seconds is not None:
        an_epoch = max(an_epoch, math.ceil(size.train_seconds / batch.max_seconds))
    before, before_s = 0, 0.0
    if isinstance(algorithm, MimeLite):  # the mean gradient at the weights that it was sent
        before = an_epoch if algorithm.gradient_batches is None else min(an_epoch, algorithm.gradient_batches)
        before_s = size.train_seconds * before / max(1, an_epoch)
    steps, trained_s = settings.local_epochs * an_epoch, settings.local_epochs * size.train_seconds
    if settings.local_steps is not None:
        steps, trained_s = settings.local_steps, size.train_seconds * settings.local_steps / max(1, an_epoch)
    return Work(steps, trained_s, decoded, before, before_s)
