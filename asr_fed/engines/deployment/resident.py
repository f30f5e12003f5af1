"""What a node keeps between messages: its current experiment, and workers with model and features loaded."""

import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from flwr.app import Error, Message, MessageType

from asr_fed.aggregation.update import Update, empty, merge
from asr_fed.engines.deployment.journal import JOURNAL, Journal
from asr_fed.engines.deployment.node_experiment import NodeExperiment, prepare, reopen
from asr_fed.engines.deployment.policy import check_hours, check_order, check_terms
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.local_pool import LocalPool
from asr_fed.engines.worker_count import default_workers
from asr_fed.engines.workers import Workers
from asr_fed.federation.client_app import client_size, open_worker
from asr_fed.federation.personalisation import ask_to_personalise, personal_seconds
from asr_fed.federation.roster import wait_for_nodes
from asr_fed.federation.round import assign, audio_seconds
from asr_fed.runs.experiment import pick_device
from asr_fed.system.errors import UserError
from asr_fed.wire.ask import Asked, Assignment, ask
from asr_fed.wire.joining import read_query, report_message
from asr_fed.wire.messages import Answer, ClientSize, Order, Refused, Reply, Report, Timing
from asr_fed.wire.records import record_bytes, told
from asr_fed.wire.rounds import LONGEST_REASON, gains_message, order_setup, read_order, read_reply, reply_message

REFUSED, NOT_IN_ORDER = 1, 2
DONE = "done: that was the last thing to do for this experiment; waiting for the next one"
LOST = "its worker was lost"
TOO_FEW = "the policy of this node's owner (policy.clients) lets no update of so few clients leave"

A = TypeVar("A", bound=Answer)

log = logging.getLogger(__name__)


@dataclass
class Resident:
    """A context manager: leaving it ends the workers. `say` is called with a line for the node's owner at each
    event."""

    settings: NodeSettings
    say: Callable[[str], None] = field(default=print)
    _experiment: NodeExperiment | None = field(default=None, init=False)
    _workers: Workers | None = field(default=None, init=False)

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def answer(self, message: Message) -> Message:
        """The reply to any message; an error if it is refused. Private details go to `say` only."""
        try:
            if message.has_error():  # it could not be read
                raise Refused(message.error.reason)
            if message.metadata.message_type == MessageType.QUERY:
                return self._join(message)
            if message.metadata.message_type == MessageType.TRAIN:
                return self._train(message)
            if message.metadata.message_type == MessageType.EVALUATE:
                return self._personalise(message)
            raise Refused(f"a message of type {message.metadata.message_type:.40}")
        except Refused as refused:
            self.say(f"refused: {told(refused)}")
            with suppress(OSError, UserError):  # a node that cannot write answers all the same
                self.journal.add("refused", reason=str(refused)[:LONGEST_REASON])
            return Message(Error(REFUSED, str(refused)), reply_to=message)
        except (UserError, OSError) as error:  # the texts may name private files
            self.say(f"not in order: {error}")
        except Exception as error:  # any error of a config or an order: the node answers, and continues
            log.exception("message %s", message.metadata.message_id)
            self.say(f"not in order: {type(error).__name__}: {error}")
        return Message(Error(NOT_IN_ORDER, "the node is not in order, its owner has been told why"), reply_to=message)

    @functools.cached_property
    def journal(self) -> Journal:
        return Journal(Path(self.settings.folder) / JOURNAL)

    def _join(self, message: Message) -> Message:
        setup = read_query(message)
        self.journal.add("asked to join", setup=setup.sha256)
        again = self._experiment is not None and self._experiment.setup == setup and self._can_work
        if not again:
            check_hours(self.settings.policy, self._worked())
            prepared = {entry["setup"] for entry in self.journal.today("preparing")}
            if setup.sha256 not in prepared and len(prepared) >= self.settings.policy.setups_per_day:
                raise Refused("the policy of this node's owner: no more setups today")
            self.journal.add("preparing", setup=setup.sha256)
            self.say(f"preparing: features for experiment {setup.sha256[:8]}")
            self._prepare(setup.sha256, lambda: prepare(setup, self.settings))
        assert self._experiment is not None
        clients = self._sizes()
        seconds = sum(client.train_seconds for client in clients.values())
        if again:  # the server asks once a minute those whose answer it does not have yet
            self.say(f"asked again about experiment {setup.sha256[:8]}: it has joined")
        else:
            personal = ", to personalise at the end" if self._experiment.config.personalise else ""
            self.say(
                f"joined experiment {setup.sha256[:8]} with {len(clients)} client(s), {seconds / 60:.1f} min to train "
                f"on{personal}"
            )
            if self._experiment.remark:
                self.say(self._experiment.remark)
        self.journal.add("joined", setup=setup.sha256, clients=len(clients))
        return report_message(message, Report(self.settings.name, self.settings.own, setup.sha256, clients))

    def _train(self, message: Message) -> Message:
        started = time.perf_counter()
        order = self._own_order(message, to_train=True)
        update, asked = self._enough(order, *self._merged(order))
        timing = _timing(started, asked)
        config = self._opened()[0].config
        rounds = config.federation.rounds
        self.say(
            f"round {order.server_round} of {rounds}: trained {len(order.clients)} client(s) in {_told(timing, asked)}"
        )
        reply = self._sent(reply_message(message, update, asked.failures, timing), order, timing)
        if order.server_round >= rounds and not config.personalise:
            self.say(DONE)
        return reply

    def _merged(self, order: Order) -> tuple[Update, Asked[Reply]]:
        """What all workers make of an order, in one update."""
        asked = self._on_workers(order)
        updates = [answer.update for _, answer in sorted(asked.answers.items()) if answer.update is not None]
        return merge(updates) if updates else self._nothing(), asked

    def _enough(self, order: Order, update: Update, asked: Asked[Reply]) -> tuple[Update, Asked[Reply]]:
        """The same, or no update where clients failed and the rest are fewer than the node's owner wants in one."""
        if not self.settings.own or update.totals.get("clients", 0) >= self.settings.policy.clients:
            return update, asked
        return self._nothing(), replace(asked, failures=dict.fromkeys(order.clients, TOO_FEW) | asked.failures)

    def _sent(self, reply: Message, order: Order, timing: Timing) -> Message:
        """The reply, noted in the journal."""
        work = {"clients": len(order.clients), "seconds": round(timing.busy + timing.start, 3)}
        self.journal.add(
            "sent",
            setup=order.setup,
            round=order.server_round,
            bytes=record_bytes(reply),
            vectors=_vectors_sha256(reply),
            **work,
        )
        return reply

    def _personalise(self, message: Message) -> Message:
        started = time.perf_counter()
        order = self._own_order(message, to_train=False)
        experiment, workers = self._opened()
        config = experiment.config
        if not config.personalise:
            raise Refused("an order to personalise in an experiment that does not")
        asked = ask_to_personalise(
            workers,
            self._assign(order, lambda client: personal_seconds(client, config)),
            self._sizes(),
            order,
            config,
            reason_of=lambda reply: LOST,  # its text may name files
        )
        gains = {client: gained for answer in asked.answers.values() for client, gained in answer.gained.items()}
        timing = _timing(started, asked)
        self.say(f"personalised {len(order.clients)} client(s) in {_told(timing, asked)}")
        reply = self._sent(gains_message(message, gains, asked.failures, timing), order, timing)
        self.say(DONE)
        return reply

    def _own_order(self, message: Message, *, to_train: bool) -> Order:
        """An order for clients of this node; opens its experiment. Raises Refused."""
        setup = order_setup(message)
        if self._experiment is None or self._experiment.setup.sha256 != setup or not self._can_work:
            check_hours(self.settings.policy, self._worked())
            # It has joined before this node or its workers were last started.
            self._prepare(setup, lambda: reopen(setup, self.settings))
        assert self._experiment is not None
        order = read_order(message, self._experiment.shape.sent if to_train else {})
        if len(order.weights) != self._experiment.shape.state:
            raise Refused(f"{len(order.weights)} weights for a model of {self._experiment.shape.state}")
        if strangers := set(order.clients) - {client.id for client in self._experiment.clients}:
            raise Refused(f"an order for {min(strangers)!r:.80}, whom this node does not host")
        if len(set(order.clients)) < len(order.clients):
            raise Refused("an order for a client twice")
        came = {"clients": len(order.clients), "vectors": _vectors_sha256(message)}
        self.journal.add("ordered", setup=setup, round=order.server_round, **came)
        rounds, own = self.journal.rounds(setup), self.settings.own
        check_order(self.settings.policy, len(order.clients), rounds, self._worked(), own)
        if own:
            named = [client for client in self._experiment.clients if client.id in order.clients]
            check_terms(self.settings.policy, self._experiment.config, order.terms, named)
        return order

    def _worked(self) -> float:
        """Seconds of the last 24 hours."""
        return math.fsum(entry["seconds"] for event in ("prepared", "sent") for entry in self.journal.today(event))

    def _opened(self) -> tuple[NodeExperiment, Workers]:
        assert self._experiment is not None and self._workers is not None
        return self._experiment, self._workers

    @property
    def _can_work(self) -> bool:
        """Not where all workers have been given up, as when there was no memory for them for a while."""
        return self._workers is not None and self._workers.expected > 0

    def _nothing(self) -> Update:
        shape = self._opened()[0].shape
        return empty(shape.state, shape.summed)

    def _sizes(self) -> dict[str, ClientSize]:
        """How much speech each client of this node has."""
        return {client.id: client_size(client) for client in self._opened()[0].clients}

    def _assign(self, order: Order, seconds: Callable[[ClientSize], float]) -> tuple[Assignment, ...]:
        """The clients of each worker; `seconds` is the work of each client."""
        work = {name: seconds(client) for name, client in self._sizes().items()}
        workers = list(self._opened()[1].get_node_ids())
        return assign(order.clients, dict.fromkeys(order.clients, workers), lambda worker, client: work[client])

    def _on_workers(self, order: Order) -> Asked[Reply]:
        experiment, workers = self._opened()
        settings, shape = experiment.config.federation, experiment.shape
        return ask(
            workers,
            order,
            self._assign(order, lambda client: audio_seconds(client, settings)),
            lambda reply, clients: read_reply(reply, clients, shape.state, shape.summed),
            timeout=settings.round_timeout,
            reason_of=lambda reply: LOST,  # its text may name files
        )

    def _prepare(self, setup: str, make: Callable[[], NodeExperiment]) -> None:
        """Enter what `make` prepares; the journal has how long that took, which is work."""
        started = time.perf_counter()
        try:
            self._enter(make())
        finally:
            self.journal.add("prepared", setup=setup, seconds=round(time.perf_counter() - started, 3))

    def _enter(self, experiment: NodeExperiment) -> None:
        """Start workers on an experiment; the workers of the previous one end."""
        self._leave()
        config = experiment.config
        workers = self.settings.workers or default_workers(pick_device(config.device), self.settings.threads)
        pool = LocalPool(functools.partial(open_worker, str(experiment.run_dir)), self.settings.threads)
        self._workers = Workers(pool, workers, client_timeout=config.federation.client_timeout)
        wait_for_nodes(self._workers, experiment.setup, workers, seconds=None)
        self._experiment = experiment

    def _leave(self) -> None:
        if self._workers is not None:
            self._workers.__exit__()
        self._workers = self._experiment = None


def _vectors_sha256(message: Message) -> str:
    vectors = hashlib.sha256()
    for record in message.content.array_records.values():
        for array in record.values():
            vectors.update(array.data)
    return vectors.hexdigest()


def _timing(started: float, asked: Asked[A]) -> Timing:
    """Seconds of the whole node; `busy` is that of the busiest worker."""
    busy = max((answer.timing.busy for answer in asked.answers.values()), default=0.0)
    return Timing(busy, start=max(0.0, time.perf_counter() - started - busy))


def _told(timing: Timing, asked: Asked[A]) -> str:
    failed = f", {len(asked.failures)} failed: {asked.failures}" if asked.failures else ""
    return f"{timing.busy + timing.start:.1f} s{failed}"
