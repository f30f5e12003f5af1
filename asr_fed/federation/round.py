"""A round as data: `plan_round` says who is asked, `close_round` sums the answers. Both are pure functions.

`learn` tells the cost model what the round took.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from asr_fed.aggregation.robust import Norms, combine
from asr_fed.aggregation.update import DELTA, LIMIT, ONE, Sum, Update, UpdateRefused
from asr_fed.config.schema import FederationConfig
from asr_fed.federation.placement import CostModel, place
from asr_fed.federation.roster import Roster
from asr_fed.federation.sampling import asked_and_wanted, capped_cohort, sample_cohort
from asr_fed.model.state import StateLayout
from asr_fed.wire.ask import AWAY, Asked, Assignment
from asr_fed.wire.messages import WHOLE, ClientSize, Refused, Reply, Terms

FAIR_SHARE = 3.0
# Least and largest weight of a client, by its number of utterances.
Bounds = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class RoundPlan:
    """Which nodes are asked to train which clients.

    cohort: the sampled clients.
    wanted: how many of them are enough.
    assignments: the clients of each node, longest first.
    away: clients of the cohort whom no node hosts now.
    owners: the node of each client of the cohort that belongs to one.
    silos: those of these nodes whose clients are not simulated.
    terms: by client, where the fleet's clock asks for other than a whole round.
    """

    cohort: tuple[str, ...]
    wanted: int
    assignments: tuple[Assignment, ...]
    away: tuple[str, ...]
    terms: Mapping[str, Terms] = field(default_factory=dict)
    owners: Mapping[str, int] = field(default_factory=dict)
    silos: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Closed:
    """The result of a round.

    update: the sum of all accepted answers; None if too little of the cohort arrived, or if it could not be added.
    success: the share of the cohort's weight, or of its silos, that arrived: the larger one.
    failures: the reason for each client that is missing.
    norms, clipped: see `asr_fed.aggregation.robust.Combined`.
    refused: why what arrived could not be added.
    """

    update: Update | None
    success: float
    failures: dict[str, str]
    norms: Norms | None = None
    clipped: int = 0
    refused: str = ""


@dataclass(frozen=True)
class RoundResult:
    """The sums of a round or of a buffer, its numbers for the record, and its norms for the next ones."""

    update: Update
    numbers: dict[str, Any]
    norms: Norms | None


def plan_round(
    roster: Roster,
    cost: CostModel,
    settings: FederationConfig,
    seed: int,
    server_round: int,
    cohort: Sequence[str] | None = None,
    terms: Mapping[str, Terms] | None = None,
) -> RoundPlan:
    """Sample a cohort, unless it is given, and place it on the nodes that are there, so that the last node finishes
    early.
    """
    clients = roster.clients
    if cohort is None:
        asked, wanted = asked_and_wanted(settings, len(clients))
        share = settings.robust.node_share
        if share is None:
            cohort = sample_cohort(roster.names, asked, seed, server_round)
        else:
            cohort = capped_cohort(roster.names, asked, wanted, share, roster.owner, seed, server_round)
            wanted = min(wanted, len(cohort))
    else:
        wanted = len(cohort)
    hosts = {client: roster.hosts(client) for client in cohort}
    there = [client for client in cohort if hosts[client]]
    away = [client for client in cohort if not hosts[client]]
    owners = {client: node for client in cohort if (node := roster.owner(client)) is not None}

    def seconds(node: int, client: str) -> float:
        return cost.predict(node, audio_seconds(clients[client], settings))

    silos = frozenset(node for node in owners.values() if roster.nodes[node].own)
    return RoundPlan(tuple(cohort), wanted, assign(there, hosts, seconds), tuple(away), terms or {}, owners, silos)


def assign(
    clients: Sequence[str], hosts: Mapping[str, Sequence[int]], seconds: Callable[[int, str], float]
) -> tuple[Assignment, ...]:
    """Place clients on nodes (see `place`), with the seconds that each node is expected to take."""
    placed = place(clients, hosts, seconds)
    return tuple(
        Assignment(node, tuple(share), sum(seconds(node, client) for client in share)) for node, share in placed.items()
    )


def joined(plans: Sequence[RoundPlan]) -> RoundPlan:
    """One plan of several, whose cohorts have no client in common."""
    if len(plans) == 1:
        return plans[0]
    return RoundPlan(
        tuple(name for plan in plans for name in plan.cohort),
        sum(plan.wanted for plan in plans),
        tuple(each for plan in plans for each in plan.assignments),
        tuple(name for plan in plans for name in plan.away),
        {name: terms for plan in plans for name, terms in plan.terms.items()},
        {name: node for plan in plans for name, node in plan.owners.items()},
        frozenset().union(*(plan.silos for plan in plans)),
    )


def close_round(
    plan: RoundPlan,
    asked: Asked[Reply],
    sizes: Mapping[str, ClientSize],
    bounds: Bounds,
    settings: FederationConfig,
    parameters: int | None = None,
    past: Sequence[Norms] = (),
) -> Closed:
    """Add up the answers; the first `parameters` entries of the state are no buffers. `past`: norms of the rounds
    before.

    For success a client counts with what it is worth (see `worth`), or with its part of its silo's voice (`voices`),
    whichever makes more of what arrived: else one silo of three that claims a lot and does not deliver ends every run.
    """
    failures = dict.fromkeys(plan.away, AWAY) | asked.failures
    success = _share(plan, worth(plan, sizes, bounds), failures)
    if plan.silos:
        success = max(success, _share(plan, voices(plan), failures))
    updates = [answer.update for _, answer in sorted(asked.answers.items()) if answer.update is not None]
    if not updates or success < settings.min_success:
        return Closed(None, success, failures)
    try:
        combined = combine(updates, settings.robust, parameters, past)
        return Closed(combined.update, success, failures, combined.norms, combined.clipped)
    except UpdateRefused as refused:
        return Closed(None, success, failures, refused=str(refused))


def older(asked: Asked[Reply], age: Callable[[Update], Update]) -> Asked[Reply]:
    """The answers of clients whose weights were of some server steps ago.

    Ageing rounds. So that the sum has the same bits however clients are grouped into answers, each becomes what it adds
    to the aged sum of those before it.
    """
    answers = dict(asked.answers)
    whole, before = Sum(np.zeros(1, dtype=np.int64)), np.zeros(1, dtype=np.int64)
    for node, reply in sorted(asked.answers.items()):
        if reply.update is None:
            continue
        sums = reply.update.sums
        own = sums[DELTA]
        whole = Sum(whole.values + own.values, whole.weight + own.weight, whole.peak + own.peak)
        aged = age(replace(reply.update, sums={**sums, DELTA: whole})).sums[DELTA].values
        adds = aged - before
        before = aged
        update = replace(reply.update, sums={**sums, DELTA: Sum(adds, own.weight, int(np.abs(adds).max(initial=0)))})
        answers[node] = replace(reply, update=update)
    return replace(asked, answers=answers)


def worth(plan: RoundPlan, sizes: Mapping[str, ClientSize], bounds: Bounds) -> dict[str, float]:
    """What each client of the cohort counts for the success of a round.

    That is the largest weight that it can have, because weights of single clients are not known. No client, and no node
    with its clients together, counts for more than `FAIR_SHARE` times the median one: else one that claims a lot fails
    every round by not delivering, or makes up a round alone.
    """
    value = {name: bounds(sizes[name].examples)[1] * plan.terms.get(name, WHOLE).weight for name in plan.cohort}
    if not all(map(math.isfinite, value.values())):
        value = dict.fromkeys(value, 1.0)
    fair = _fair(value.values())
    value = {name: min(weight, fair) for name, weight in value.items()}
    nodes: dict[int, float] = defaultdict(float)
    for name, node in plan.owners.items():
        nodes[node] += value[name]
    fair = _fair(nodes.values())
    shrink = {node: min(1.0, fair / weight) for node, weight in nodes.items() if weight}
    return {name: weight * shrink.get(plan.owners.get(name, -1), 1.0) for name, weight in value.items()}


def voices(plan: RoundPlan) -> dict[str, float]:
    """One for each silo, divided among its clients, and one for each simulated client.

    What a silo says of its speech is not known to be true; that it is one of so many is, by its key. Who simulates
    clients is trusted with their number.
    """
    crowd = Counter(node for node in plan.owners.values() if node in plan.silos)
    return {name: 1 / crowd.get(plan.owners.get(name, -1), 1) for name in plan.cohort}


def _share(plan: RoundPlan, value: Mapping[str, float], failures: Mapping[str, str]) -> float:
    """What arrived, of what is wanted of the cohort."""
    whole = math.fsum(value.values()) * min(1.0, plan.wanted / max(1, len(plan.cohort)))
    arrived = math.fsum(weight for name, weight in value.items() if name not in failures)
    return min(1.0, arrived / max(whole, 1e-9))


def _fair(values: Iterable[float]) -> float:
    values = list(values)
    return FAIR_SHARE * statistics.median(values) if values else math.inf


def enough(plan: RoundPlan, answers: Sequence[Reply], settings: FederationConfig) -> bool:
    """Whether enough clients have answered: as many as the cohort has without over-commitment. No node counts for more
    than `FAIR_SHARE` times the median one, as for success.
    """
    if settings.over_commit == 1 or len(plan.cohort) == plan.wanted:
        return False  # then only all are enough
    owned = Counter(plan.owners.values())
    fair = _fair(owned.values())
    whole = len(plan.cohort) - len(plan.owners) + sum(min(clients, fair) for clients in owned.values())
    trained = sum(min(answer.update.totals["clients"], fair) for answer in answers if answer.update is not None)
    return trained * len(plan.cohort) >= whole * plan.wanted


def check_variances(reply: Reply, weights: np.ndarray, layout: StateLayout) -> None:
    """Raises Refused where a node's clients would have, on average, a variance below 0, which no speech leads to."""
    if reply.update is None:
        return
    delta = reply.update.sums[DELTA]
    for start, end in layout.variances():
        theirs = weights[start:end] + delta.values[start:end] / delta.weight
        if (theirs < -1e-6 * (1 + np.abs(weights[start:end]))).any():  # float32 was rounded
            raise Refused("a variance below 0")


def check_weight(
    reply: Reply,
    clients: Sequence[str],
    sizes: Mapping[str, ClientSize],
    bounds: Bounds,
    terms: Mapping[str, Terms] | None = None,
) -> Reply:
    """The reply. Raises Refused if its weight is one that its clients cannot have under these terms."""
    if reply.update is None:
        return reply
    trained = [name for name in clients if name not in reply.failures]
    factors = {name: (terms or {}).get(name, WHOLE).weight for name in trained}
    least, most = (math.fsum(bounds(sizes[name].examples)[side] * factors[name] for name in trained) for side in (0, 1))
    weight, slack = reply.update.weight / ONE, 1e-6 * len(trained)  # each weight was rounded
    if not least * (1 - 1e-9) - slack <= weight <= most * (1 + 1e-9) + slack:
        raise Refused(f"a weight of {weight:g} for {len(trained)} client(s), outside {least:g} to {most:g}")
    return reply


def check_room(reply: Reply, clients: int, together: int) -> Reply:
    """The reply of so many of the clients whose updates are added together.

    Raises Refused if its sums take more than these clients' part of the range that all have: else one node's sums, or
    the peak that it states, would leave no room for the others', and end the run.
    """
    if reply.update is None:
        return reply
    room = LIMIT // together * clients
    for name, each in reply.update.sums.items():
        if each.peak >= room or each.weight >= room:
            raise Refused(f"a sum of {name} too large to be added to those of {together} clients")
    return reply


def learn(
    cost: CostModel,
    plan: RoundPlan,
    asked: Asked[Reply],
    sizes: Mapping[str, ClientSize],
    settings: FederationConfig,
    timings: Iterable[tuple[int, str, float]] | None,
) -> None:
    """Tell the cost model how long clients took: each one if that is known, else all clients of a node together.

    timings: node, client and seconds of each client; None where only the nodes' own reports are known.
    """

    def audio(client: str) -> float:
        return audio_seconds(sizes[client], settings)

    if timings is not None:
        for node, client, seconds in timings:
            if client not in asked.failures:  # a failure takes another time than training
                cost.observe(node, audio(client), seconds)
    else:
        for each in plan.assignments:
            if each.node in asked.answers and not asked.failures.keys() & each.clients:
                # A node may report any number, but it cannot have worked for longer than the server waited for it.
                busy = min(asked.timing(each.node).busy, asked.waited)
                cost.observe(each.node, [audio(name) for name in each.clients], busy)
    cost.end_round()


def audio_seconds(client: ClientSize, settings: FederationConfig) -> float:
    """Seconds of audio that this client processes in a round: training passes and one decoding."""
    passes: float = settings.local_epochs
    if settings.local_steps is not None and client.examples:
        passes = settings.local_steps * settings.batch.max_utterances / client.examples
    return client.train_seconds * passes + (client.dev_seconds or client.train_seconds)
