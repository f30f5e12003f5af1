"""The asynchronous mode over real nodes: a node is asked again as soon as it has answered.

`asr_fed.aggregation.buffer` says who is asked next and when the server makes a step; here are orders and answers. A
server that was killed has lost what was in its buffer and what nodes were at work on, and asks everybody again from the
weights of its last step: by real arrival no two runs are the same anyway.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from asr_fed.aggregation.buffer import Buffer, check_buffer
from asr_fed.aggregation.robust import combine
from asr_fed.aggregation.update import Update, UpdateRefused, merge
from asr_fed.federation.federation import Federation
from asr_fed.federation.round import RoundResult, assign, audio_seconds
from asr_fed.federation.round_numbers import sums
from asr_fed.federation.sampling import asked_and_wanted
from asr_fed.federation.state import FederationState
from asr_fed.runs.records import NodeRecord
from asr_fed.system.errors import UserError
from asr_fed.wire.ask import AWAY, NO_ANSWER, Assignment, Question, answer_of, told_by
from asr_fed.wire.hosts import PAUSE
from asr_fed.wire.messages import Order, Reply
from asr_fed.wire.records import record_bytes
from asr_fed.wire.rounds import order_arrays, order_message, ticket

LOOK = 2.0  # seconds between two looks for nodes that have come or gone
REST = 30.0  # seconds for which a node from which nothing came is not asked again
LOST = 3  # times as many clients as are at work: after so many failures in a row the run is given up


@dataclass(frozen=True)
class _Sent:
    """An order that a node works on; `version`: of the weights in it, float32 [state]."""

    question: Question[Reply]
    message_id: str
    version: int
    weights: np.ndarray
    at: float


@dataclass
class _Step:
    """What has come since the last server step; `updates`: of each node; `ages`: in server steps, of each client's."""

    began: float = field(default_factory=time.monotonic)
    updates: dict[int, list[Update]] = field(default_factory=lambda: defaultdict(list))
    ages: list[int] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    workers: list[NodeRecord] = field(default_factory=list)
    dropped: int = 0
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass
class Arrivals:
    """Who is at work, and what has come. `open`: orders without an answer, by ticket."""

    federation: Federation
    buffer: Buffer
    open: dict[str, _Sent] = field(default_factory=dict)
    sent: int = 0
    _resting: dict[int, float] = field(default_factory=dict)  # nodes, and until when
    _lost: list[tuple[str, str]] = field(default_factory=list)  # clients since the last update, and why
    _looked: float = -LOOK
    _packed: tuple[Order, ArrayRecord] | None = None  # of the newest weights

    @classmethod
    def begin(cls, federation: Federation, state: FederationState) -> "Arrivals":
        """With nobody at work. Raises UserError for a buffer that makes no sense here."""
        config, clients = federation.experiment.config, len(federation.roster.clients)
        size = config.federation.buffer
        assert size is not None
        check_buffer("federation.buffer", size, clients, federation.algorithm.sent(federation.layout))
        asked = sum(record.clients + len(record.failures) for record in state.history)
        return cls(federation, Buffer(size, 0, config.seed, state.round, asked))

    def next_step(self, state: FederationState, lr: float) -> RoundResult:
        """Keep nodes at work until the buffer is full; the sum of what is in it, each update by its age.

        Raises UserError where nobody is there to be asked, or nothing but failures comes.
        """
        step, idle = _Step(), None
        while not self.buffer.is_full:
            self._ask(state, lr, step)
            idle = None if self.open else idle or time.monotonic()
            if idle is not None and time.monotonic() - idle > self.federation.experiment.config.engine.wait:
                raise UserError(
                    f"Nobody can be asked for step {state.round + 1}{self._reasons()} The run can be resumed."
                )
            if not self._receive(state, step):
                time.sleep(PAUSE)
            self._give_up(step)
            if len(self._lost) >= LOST * self.buffer.at_once:
                raise UserError(
                    f"Step {state.round + 1}: nothing came but failures, {len(self._lost)} in a row"
                    f"{self._reasons()} The run can be resumed."
                )
        return self._close(step, state)

    def end(self) -> None:
        """Nobody waits for what nodes still work on."""
        self.federation.hosts.give_up([each.message_id for each in self.open.values()])
        self.open.clear()

    def _ask(self, state: FederationState, lr: float, step: _Step) -> None:
        """Send orders to nodes that have none, for clients of theirs that are neither at work nor in the buffer."""
        federation, now = self.federation, time.monotonic()
        config, roster = federation.experiment.config, federation.roster
        if now - self._looked >= LOOK:
            roster.refresh(federation.hosts)
            self._looked = now
            self.buffer.at_once = asked_and_wanted(config.federation, len(roster.clients))[0]
        busy = {each.question.assignment.node for each in self.open.values()}
        free = {node for node in roster.online - busy if self._resting.get(node, now) <= now}
        if not free:
            return

        def hosts(client: str) -> list[int]:
            return [node for node in roster.hosts(client) if node in free]

        def seconds(node: int, client: str) -> float:
            return federation.cost.predict(node, audio_seconds(roster.clients[client], config.federation))

        drawn = []
        while (client := self.buffer.ask(roster.names, lambda name: bool(hosts(name)))) is not None:
            drawn.append(client)
        for assignment in assign(sorted(drawn), {name: hosts(name) for name in drawn}, seconds):
            self._send(assignment, state, lr, step)

    def _send(self, assignment: Assignment, state: FederationState, lr: float, step: _Step) -> None:
        federation, version = self.federation, state.round
        self.sent += 1
        if self._packed is None or self._packed[0].server_round != version + 1:
            newest = federation.order(state, lr, state.weights, str(version))
            self._packed = newest, order_arrays(newest)
        order, arrays = self._packed
        order = replace(order, clients=assignment.clients, ticket=f"{order.ticket} {self.sent}")
        own = ticket(order, assignment.node)
        message = order_message(assignment.node, replace(order, ticket=own), arrays)
        (message_id,) = federation.hosts.send([message])
        read = partial(federation.read_update, {}, order.weights, self.buffer.size + self.buffer.at_once)
        self.open[own] = _Sent(Question(assignment, read), message_id, version, order.weights, time.monotonic())
        step.bytes_down += record_bytes(message)

    def _receive(self, state: FederationState, step: _Step) -> bool:
        """Take the answers that have arrived; whether there were any."""
        tickets = {each.message_id: own for own, each in self.open.items()}
        replies = self.federation.hosts.receive(list(tickets)) if tickets else []
        for reply in replies:
            found = answer_of(reply, {own: each.question for own, each in self.open.items()}, told_by)
            if found is None:
                step.dropped += 1
            elif isinstance(found[1], str):
                self._lose(found[0], found[1], step)
            else:
                self._take(self.open.pop(found[0]), found[1], record_bytes(reply), state, step)
            answered = tickets.get(reply.metadata.reply_to_message_id)
            if answered in self.open:  # by something else, and there will be no other answer
                self._lose(answered, NO_ANSWER, step)
        return bool(replies)

    def _take(self, sent: _Sent, answer: Reply, size: int, state: FederationState, step: _Step) -> None:
        assignment, waited = sent.question.assignment, time.monotonic() - sent.at
        for client in assignment.clients:
            if client in answer.failures:
                self.buffer.lose(client)
            else:
                self.buffer.add(client)
                step.failures.pop(client, None)  # its node was asked again
        trained = len(assignment.clients) - len(answer.failures)
        step.failures |= answer.failures
        step.bytes_up += size
        busy, age = min(answer.timing.busy, waited), self.buffer.version - sent.version
        step.workers.append(
            NodeRecord(
                assignment.node,
                len(assignment.clients),
                assignment.predicted,
                answer.timing.busy,
                answer.timing.start,
                idle=max(0.0, 1 - busy / waited) if waited else 0.0,
            )
        )
        if answer.update is None:
            self._lost += answer.failures.items()
            self._rest(assignment.node)
            return
        self._lost.clear()
        update = self.federation.age(state, sent.version, sent.weights)(answer.update)
        step.updates[assignment.node].append(update)
        step.ages += [age] * trained
        if not answer.failures:
            sizes, settings = self.federation.roster.clients, self.federation.experiment.config.federation
            audio = [audio_seconds(sizes[name], settings) for name in assignment.clients]
            self.federation.cost.observe(assignment.node, audio, busy)

    def _give_up(self, step: _Step) -> None:
        """Orders of nodes that are gone, and those that have taken too long."""
        federation, now = self.federation, time.monotonic()
        timeout = federation.experiment.config.federation.round_timeout
        for own, each in list(self.open.items()):
            gone = each.question.assignment.node not in federation.roster.online
            if gone or (timeout is not None and now - each.at >= timeout):
                step.dropped += federation.hosts.give_up([each.message_id])
                self._lose(own, AWAY if gone else NO_ANSWER, step)

    def _lose(self, own: str, reason: str, step: _Step) -> None:
        assignment = self.open.pop(own).question.assignment
        for client in assignment.clients:
            self.buffer.lose(client)
            step.failures[client] = reason
            self._lost.append((client, reason))
        self._rest(assignment.node)

    def _rest(self, node: int) -> None:
        self._resting[node] = time.monotonic() + REST

    def _close(self, step: _Step, state: FederationState) -> RoundResult:
        federation, began = self.federation, time.perf_counter()
        self.buffer.step()
        settings = federation.experiment.config.federation
        try:
            # One for each node: one that answers more often than others has no more votes in a median.
            updates = [merge(own) for _, own in sorted(step.updates.items())]
            combined = combine(updates, settings.robust, federation.layout.parameters, state.norms)
        except UpdateRefused as refused:
            raise UserError(f"The nodes' updates cannot be added: {refused}.") from refused
        federation.cost.end_round()
        numbers: dict[str, Any] = {
            "success": len(step.ages) / (len(step.ages) + len(step.failures)),
            "failures": step.failures,
            "clipped": combined.clipped,
            "dropped": step.dropped,
            "attempts": 1,
            "bytes_down": step.bytes_down,
            "bytes_up": step.bytes_up,
            "exchange_seconds": time.monotonic() - step.began,
            "aggregate_seconds": time.perf_counter() - began,
            "workers": step.workers,
            "staleness": sum(step.ages) / len(step.ages),
        }
        return RoundResult(combined.update, sums(combined.update) | numbers, combined.norms)

    def _reasons(self) -> str:
        told = "; ".join(f"{client}: {reason}" for client, reason in self._lost[:3])
        return f": {told}." if told else "."
