"""What a node keeps between messages: an experiment it takes part in, and workers with model and features loaded."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Error, Message, MessageType

from asr_fed.aggregation.update import Update, empty, merge
from asr_fed.engines.deployment.node_experiment import NodeExperiment, prepare, reopen
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.local_pool import LocalPool
from asr_fed.engines.worker_count import default_workers
from asr_fed.engines.worker_grid import WorkerGrid
from asr_fed.federation.client_app import describe_client, open_worker
from asr_fed.federation.personalisation import ask_to_personalise, personal_seconds
from asr_fed.federation.roster import wait_for_nodes
from asr_fed.federation.sampling import place
from asr_fed.federation.strategy import audio_seconds
from asr_fed.runs.experiment import open_experiment, pick_device
from asr_fed.system.errors import UserError
from asr_fed.wire.exchange import exchange
from asr_fed.wire.messages import (
    Hosted,
    Order,
    Refused,
    Report,
    Timing,
    gains_message,
    order_message,
    read_order,
    read_query,
    read_reply,
    reply_message,
    report_message,
)
from asr_fed.wire.setup import setup_of

REFUSED, NOT_IN_ORDER = 1, 2
LOST = "its worker was lost"


@dataclass
class Resident:
    """A context manager: leaving it ends the workers. `say` gets a line for the node's owner at each event."""

    settings: NodeSettings
    say: Callable[[str], None] = field(default=print)
    _experiment: NodeExperiment | None = field(default=None, init=False)
    _grid: WorkerGrid | None = field(default=None, init=False)

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def answer(self, message: Message) -> Message:
        """The reply to any message; an error where it is refused. What the owner alone may know stays in `say`."""
        try:
            if message.metadata.message_type == MessageType.QUERY:
                return self._join(message)
            if message.metadata.message_type == MessageType.TRAIN:
                return self._train(message)
            if message.metadata.message_type == MessageType.EVALUATE:
                return self._personalise(message)
            raise Refused(f"a message of type {message.metadata.message_type:.40}")
        except Refused as refused:
            self.say(f"refused: {refused}")
            return Message(Error(REFUSED, str(refused)), reply_to=message)
        except (UserError, OSError) as error:  # their texts may name files
            self.say(f"not in order: {error}")
            return Message(
                Error(NOT_IN_ORDER, "the node is not in order, its owner has been told why"), reply_to=message
            )

    def _join(self, message: Message) -> Message:
        setup = read_query(message)
        if self._experiment is None or self._experiment.setup != setup.sha256:
            self.say("joining: preparing features")
            self._enter(prepare(setup, self.settings))
        assert self._experiment is not None
        clients = self._hosted()
        seconds = sum(client.train_seconds for client in clients.values())
        personal = ", to personalise at the end" if self._experiment.config.personalise else ""
        self.say(
            f"joined experiment {setup.sha256[:8]} with {len(clients)} client(s), {seconds / 60:.1f} min to train on"
            f"{personal}"
        )
        if self._experiment.remark:
            self.say(self._experiment.remark)
        own = self.settings.partition is None
        return report_message(message, Report(self.settings.name, own, setup.sha256, clients))

    def _train(self, message: Message) -> Message:
        started = time.perf_counter()
        order = self._own_order(message)
        update, failures, busy = self._on_workers(order, message)
        whole = time.perf_counter() - started
        failed = f", {len(failures)} failed: {failures}" if failures else ""
        self.say(f"round {order.server_round}: trained {len(order.clients)} client(s) in {whole:.1f} s{failed}")
        return reply_message(message, update, failures, Timing(busy=busy, start=whole - busy))

    def _personalise(self, message: Message) -> Message:
        started = time.perf_counter()
        order = self._own_order(message)
        assert self._experiment is not None and self._grid is not None
        config = self._experiment.config
        if not config.personalise:
            raise Refused("an order to personalise in an experiment that does not")
        gains, failures, busy = ask_to_personalise(
            self._grid,
            self._shares(order, lambda client: personal_seconds(client, config)),
            self._hosted(),
            message.content["arrays"],  # type: ignore[arg-type]
            order.setup,
            config,
            reason_of=lambda reply: LOST,  # its text may name files
        )
        whole = time.perf_counter() - started
        failed = f", {len(failures)} failed: {failures}" if failures else ""
        self.say(f"personalised {len(order.clients)} client(s) in {whole:.1f} s{failed}")
        return gains_message(message, gains, failures, Timing(busy=busy, start=whole - busy))

    def _own_order(self, message: Message) -> Order:
        """An order for clients of this node, whose experiment is then open. Raises Refused."""
        order = read_order(message)
        if self._experiment is None or self._experiment.setup != order.setup:
            self._enter(reopen(order.setup, self.settings))  # joined before this node was last started
        assert self._experiment is not None
        if len(order.weights) != self._experiment.length:
            raise Refused(f"{len(order.weights)} weights for a model of {self._experiment.length}")
        if strangers := set(order.clients) - {client.id for client in self._experiment.clients}:
            raise Refused(f"an order for {min(strangers)!r:.80}, whom this node does not host")
        if len(set(order.clients)) < len(order.clients):
            raise Refused("an order for a client twice")
        return order

    def _hosted(self) -> dict[str, Hosted]:
        """How much speech each client of this node has."""
        assert self._experiment is not None
        return {client.id: describe_client(client) for client in self._experiment.clients}

    def _shares(self, order: Order, seconds: Callable[[Hosted], float]) -> dict[int, list[str]]:
        """The clients of each worker; `seconds` says how much work a client is."""
        assert self._grid is not None
        work = {name: seconds(client) for name, client in self._hosted().items()}
        workers = list(self._grid.get_node_ids())
        return place(order.clients, dict.fromkeys(order.clients, workers), lambda worker, client: work[client])

    def _on_workers(self, order: Order, message: Message) -> tuple[Update, dict[str, str], float]:
        """One update of all workers, the clients that failed, and the seconds of the busiest worker."""
        assert self._experiment is not None and self._grid is not None
        settings, length = self._experiment.config.federation, self._experiment.length
        shares = self._shares(order, lambda client: audio_seconds(client, settings))
        orders = [
            order_message(
                worker,
                order.server_round,
                order.lr,
                share,
                message.content["arrays"],  # type: ignore[arg-type]
                setup=order.setup,
            )
            for worker, share in shares.items()
        ]
        result = exchange(self._grid, orders, timeout=settings.round_timeout)
        self._grid.give_up(result.unanswered, "no answer in time")
        answered = {reply.metadata.src_node_id: reply for reply in result.replies}
        updates: list[Update] = []
        failures: dict[str, str] = {}
        busy = 0.0
        for worker, share in shares.items():
            reply = answered.get(worker)
            if reply is None or reply.has_error():
                failures |= dict.fromkeys(share, "no answer in time" if reply is None else LOST)
                continue
            read = read_reply(reply, share, length)
            failures |= read.failures
            busy = max(busy, read.timing.busy)
            if read.update is not None:
                updates.append(read.update)
        return merge(updates) if updates else empty(length), failures, busy

    def _enter(self, experiment: NodeExperiment) -> None:
        """Start workers on an experiment, in place of another one's."""
        self._leave()
        config = experiment.config
        workers = self.settings.workers or default_workers(pick_device(config.device), self.settings.threads)
        pool = LocalPool(functools.partial(open_worker, str(experiment.run_dir)), self.settings.threads)
        self._grid = WorkerGrid(pool, workers, client_timeout=config.federation.client_timeout)
        wait_for_nodes(self._grid, setup_of(open_experiment(experiment.run_dir)), workers, seconds=None)
        self._experiment = experiment

    def _leave(self) -> None:
        if self._grid is not None:
            self._grid.__exit__()
        self._grid = self._experiment = None
