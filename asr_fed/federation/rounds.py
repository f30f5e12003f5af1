"""The rounds of a federation, from the warm start to the best weights."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from asr_fed.aggregation.prior import prior_of
from asr_fed.aggregation.robust import remembered
from asr_fed.aggregation.server_optimizer import server_step
from asr_fed.aggregation.update import Update
from asr_fed.federation.arrivals import Arrivals
from asr_fed.federation.federation import Federation
from asr_fed.federation.held_out import train_on_server
from asr_fed.federation.personalisation import personalise_clients
from asr_fed.federation.round import (
    RoundPlan,
    RoundResult,
    close_round,
    enough,
    joined,
    learn,
    older,
    plan_round,
)
from asr_fed.federation.round_numbers import exchanged, mean_client_loss, sums
from asr_fed.federation.state import FederationState, begin, load_federation, save_federation, steer
from asr_fed.federation.virtual import past_weights, remember
from asr_fed.model.state import load_state, read_state
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import Experiment, pick_device
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.oort import Memory
from asr_fed.simulation.record import append_times, forget_after
from asr_fed.simulation.timetable import Timetable
from asr_fed.system.errors import UserError
from asr_fed.tasks.learners import load_learner, save_learner
from asr_fed.training.annealing import planned_fall
from asr_fed.training.averaging import add_if_last
from asr_fed.wire.ask import Asked, answers_of, ask
from asr_fed.wire.hosts import Hosts
from asr_fed.wire.messages import Reply

ATTEMPTS = 2  # of a round


def run_federation(
    experiment: Experiment,
    hosts: Hosts,
    on_round: Callable[[Sequence[RoundRecord]], None] = lambda history: None,
    on_personalise: Callable[[int], None] = lambda clients: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> FederationState:
    """Train from checkpoints/warm_start.pt to checkpoints/federated.pt, over the nodes of `hosts`.

    Continues from checkpoints/federation.pt if that exists. `on_round` is called with the history after each round,
    `on_personalise` with the number of clients that will personalise the result, if the config asks for that, and
    `on_wait` with who has joined and who has not, while nodes are waited for.

    Raises UserError if too few nodes join, or if a round fails twice.
    """
    config, settings = experiment.config, experiment.config.federation
    learner = load_learner(experiment.checkpoints / "warm_start.pt", config)
    train_only(learner.model, settings)
    training = experiment.task(learner, pick_device(config.device))
    model, checkpoint = training.model, experiment.checkpoints / "federation.pt"
    state = load_federation(checkpoint) if checkpoint.is_file() else begin(experiment, training)
    federation, arrivals, memory = None, None, Memory()
    timetables: Iterator[Timetable | None] = itertools.repeat(None)
    if state.round < settings.rounds:
        federation = Federation.open(experiment, hosts, model, on_wait)
        state = with_clients(state, federation)
        forget_after(experiment.run_dir, state.round)
        memory = remember(experiment.run_dir, state.history)
        timetables = federation.timetables(state, memory)
        arrivals = None if settings.buffer is None else Arrivals.begin(federation, state)
    elif state.round == 0:
        save_federation(state, checkpoint)  # without any round; in a deployment another process reads it

    while federation is not None and state.round < settings.rounds:
        started = time.perf_counter()
        server_round, annealed_lr = state.round + 1, state.newbob.lr
        lr = annealed_lr * planned_fall(state.round / settings.rounds, settings.decay_from, settings.decay)

        timetable = next(timetables)
        if arrivals is None:
            result = run_round(federation, state, server_round, lr, timetable)
        else:
            result = arrivals.next_step(state, lr)
        weights, optimizer, algorithm = apply_update(federation, state, result.update)
        load_state(model, weights)
        trained = time.perf_counter()
        train_on_server(experiment, training, server_round, annealing=lr / settings.lr)
        held_out_seconds = time.perf_counter() - trained

        state = replace(
            state,
            round=server_round,
            weights=read_state(model),
            past=past_weights(state, timetable),
            optimizer=optimizer,
            algorithm=algorithm,
            loss=mean_client_loss(result.update),
            prior=prior_of(result.update.totals),
            norms=remembered(state.norms, result.norms),
        )
        numbers = result.numbers
        if server_round % settings.evaluate_every == 0 or server_round == settings.rounds:
            evaluated = training.evaluate(experiment.partition.dev, "dev")
            numbers = numbers | dict(evaluated.numbers)
            state = steer(state, evaluated.merit, settings)
        state = replace(
            state, last=add_if_last(state.last, state.weights, server_round, settings.rounds, settings.average_last)
        )
        record = RoundRecord(
            round=server_round,
            lr=lr,
            annealed_lr=annealed_lr,
            held_out_seconds=held_out_seconds,
            round_seconds=time.perf_counter() - started,
            best_round=state.best_round,
            fleet_seconds=None if timetable is None else timetable.round.end_s - timetable.round.begin_s,
            **numbers,
        )
        if timetable is not None:
            append_times(experiment.run_dir, timetable.clients, timetable.round)
            memory.add(server_round, list(timetable.terms), state.loss)
            state = replace(state, fleet_s=timetable.round.end_s)
        state = replace(state, history=(*state.history, record))
        save_federation(state, checkpoint)
        on_round(state.history)

    if arrivals is not None:
        arrivals.end()
    load_state(model, state.result)
    save_learner(learner, config, experiment.checkpoints / "federated.pt")
    if config.personalise:
        roster = None if federation is None else federation.roster
        personalise_clients(experiment, hosts, state.result, roster, on_personalise, model)
    return state


def with_clients(state: FederationState, federation: Federation) -> FederationState:
    sizes = federation.roster.clients.values()
    return replace(state, clients=len(sizes), seconds=math.fsum(size.train_seconds for size in sizes))


def run_round(
    federation: Federation, state: FederationState, server_round: int, lr: float, timetable: Timetable | None = None
) -> RoundResult:
    """Plan, ask, close. A round that fails is tried once more. Raises UserError where it fails again.

    With a timetable those are asked who arrive by the fleet's clock, each for the weights that it was sent: in the
    asynchronous mode these may be of some server steps ago.
    """
    config, settings = federation.experiment.config, federation.experiment.config.federation
    roster, dropped, parameters = federation.roster, 0, federation.layout.parameters
    groups: Mapping[int, list[str] | None] = {state.round: None} if timetable is None else timetable.by_version()
    terms = None if timetable is None else timetable.terms
    arriving = sum(len(cohort) for cohort in groups.values() if cohort is not None)
    for attempt in range(1, ATTEMPTS + 1):
        roster.refresh(federation.hosts)
        parts: list[tuple[RoundPlan, Asked[Reply]]] = []
        for version, cohort in groups.items():
            plan = plan_round(roster, federation.cost, settings, config.seed, server_round, cohort, terms)
            order = federation.order(
                state,
                lr if version == state.round else state.history[version].lr,
                state.weights if version == state.round else state.past[version],
                f"{server_round} {attempt}" + f" {version}" * (len(groups) > 1),
                plan.terms,
            )
            asked = ask(
                federation.hosts,
                order,
                plan.assignments,
                partial(federation.read_update, plan.terms, order.weights, arriving or len(plan.cohort)),
                enough=partial(enough, plan, settings=settings),
                timeout=settings.round_timeout,
            )
            learn(federation.cost, plan, asked, roster.clients, settings, federation.hosts.client_seconds())
            dropped += asked.dropped
            if version < state.round:
                asked = older(asked, federation.age(state, version, order.weights))
            parts.append((plan, asked))
        started = time.perf_counter()
        plans, answers = zip(*parts, strict=True)
        closed = close_round(
            joined(plans), answers_of(answers), roster.clients, federation.bounds, settings, parameters, state.norms
        )
        aggregate_seconds = time.perf_counter() - started
        if closed.update is not None:
            times = {"aggregate_seconds": aggregate_seconds, "attempts": attempt, "dropped": dropped}
            age = {"staleness": None if timetable is None else timetable.staleness}
            numbers = sums(closed.update) | times | age | exchanged(parts, closed)
            return RoundResult(closed.update, numbers, closed.norms)
    cohort_size = sum(len(plan.cohort) for plan, _ in parts)
    first = "; ".join(f"{client}: {reason}" for client, reason in list(closed.failures.items())[:3])
    reasons = f" First reasons: {first}." if first else ""
    arrived = (
        f"{closed.success:.0%} of the weight of {cohort_size} clients, or of their silos, arrived, "
        f"federation.min_success is {settings.min_success:.0%}"
    )
    raise UserError(
        f"Round {server_round} failed {ATTEMPTS} times: {closed.refused or arrived}.{reasons} The run can be resumed."
    )


def apply_update(
    federation: Federation, state: FederationState, update: Update
) -> tuple[np.ndarray, dict[str, Any], dict[str, np.ndarray]]:
    """The next global weights, and the next states of server optimizer and algorithm.

    Raises UserError if the weights would not be finite.
    """
    weights, optimizer = server_step(
        federation.optimizer,
        state.weights,
        federation.algorithm.step(state.algorithm, update),
        state.optimizer,
        federation.layout,
    )
    if not np.isfinite(weights).all():
        raise UserError(
            f"Round {state.round + 1} made the global weights infinite. Lower federation.lr or the server's "
            "learning rate, and resume from the last checkpoint."
        )
    return weights, optimizer, federation.algorithm.server(state.algorithm, update, len(federation.roster.clients))
