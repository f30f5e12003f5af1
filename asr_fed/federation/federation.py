"""What all rounds of a run use: orders to clients, and the reading of their answers."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from flwr.app import Message
from hydra.utils import instantiate
from torch import nn

from asr_fed.aggregation.buffer import aged
from asr_fed.aggregation.codec import from_bfloat16, to_bfloat16
from asr_fed.aggregation.server_optimizer import ServerOptimizer
from asr_fed.aggregation.update import Update
from asr_fed.aggregation.weighting import weight_bounds, weight_bounds_up_to
from asr_fed.algorithms.algorithm import Algorithm
from asr_fed.federation.placement import CostModel
from asr_fed.federation.roster import Roster, join
from asr_fed.federation.round import (
    Bounds,
    check_room,
    check_variances,
    check_weight,
)
from asr_fed.federation.state import FederationState
from asr_fed.federation.virtual import VirtualTime
from asr_fed.model.state import StateLayout, layout
from asr_fed.runs.experiment import Experiment
from asr_fed.simulation.oort import Memory
from asr_fed.simulation.timetable import Timetable
from asr_fed.wire.hosts import Hosts
from asr_fed.wire.messages import Order, Reply, Terms
from asr_fed.wire.rounds import read_reply


@dataclass
class Federation:
    """What all rounds of a run use: who hosts clients, and the objects that the config names."""

    experiment: Experiment
    hosts: Hosts
    roster: Roster
    layout: StateLayout
    algorithm: Algorithm
    optimizer: ServerOptimizer
    bounds: Bounds
    cost: CostModel
    virtual: VirtualTime | None

    def timetables(self, state: FederationState, memory: Memory) -> Iterator[Timetable | None]:
        """Of the rounds after those of `state`; of None where the config has no simulation."""
        if self.virtual is None:
            return itertools.repeat(None)
        return self.virtual.timetables(state.round, state.fleet_s, memory)

    def order(
        self,
        state: FederationState,
        lr: float,
        weights: np.ndarray,
        ticket: str,
        terms: Mapping[str, Terms] = MappingProxyType({}),
    ) -> Order:
        """Of the round after `state`, for nobody yet, to train from `weights` as clients are sent them."""
        experiment, halves = self.experiment, 0
        if experiment.config.federation.download.bits == 16:
            halves = self.layout.parameters
            weights = np.concatenate([from_bfloat16(to_bfloat16(weights[:halves])), weights[halves:]])
        return Order(
            state.round + 1,
            lr,
            (),
            weights,
            {name: state.algorithm[name] for name in self.algorithm.sent(self.layout)},
            state.loss,
            ticket=f"{experiment.config.seed} {ticket}",
            setup=self.roster.setup.sha256,
            terms=terms,
            prior=state.prior,
            halves=halves,
            run=state.run,
        )

    def age(self, state: FederationState, version: int, sent: np.ndarray) -> Callable[[Update], Update]:
        """What becomes of updates from the weights `sent`, which had seen `version` server steps."""
        staleness, parameters = state.round - version, self.layout.parameters
        return partial(aged, staleness=staleness, sent=sent, now=state.weights, parameters=parameters)

    def read_update(
        self,
        terms: Mapping[str, Terms],
        weights: np.ndarray,
        together: int,
        message: Message,
        clients: tuple[str, ...],
    ) -> Reply:
        """An answer, to an order with these terms and weights, that has passed all checks; `together`: of so many
        clients at most the updates are added up. Raises Refused."""
        parts = self.layout
        reply = read_reply(message, clients, parts.length, self.algorithm.summed(parts))
        check_room(reply, len(clients), together)
        check_variances(reply, weights, parts)
        return check_weight(reply, clients, self.roster.clients, self.bounds, terms)

    @classmethod
    def open(
        cls, experiment: Experiment, hosts: Hosts, model: nn.Module, on_wait: Callable[[str], None] = lambda text: None
    ) -> "Federation":
        """Wait for the nodes; `on_wait` is told who is there. Raises UserError where too few join."""
        config = experiment.config
        roster, parts = join(experiment, hosts, model, on_wait), layout(model)
        algorithm = instantiate(config.algorithm)
        bounds = weight_bounds_up_to if config.federation.pseudo_labels.on else weight_bounds
        return cls(
            experiment,
            hosts,
            roster,
            parts,
            algorithm,
            instantiate(config.server),
            partial(bounds, instantiate(config.weighting)),
            CostModel(),
            VirtualTime.open(config, roster.clients, model, algorithm),
        )
