"""The ClientApp: a node reports which clients it hosts, trains those it is asked for, and answers with one update.
After the last round it may be asked to personalise them; it answers with what each client gained.

Model, features and partition stay in memory between messages. The same app runs in every engine.
"""

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hydra.utils import instantiate
from torch import nn

from asr_fed.aggregation.update import LEAST_WEIGHT, Update, UpdateRefused, add_client, empty
from asr_fed.aggregation.weighting import Measured, Weighting
from asr_fed.algorithms.algorithm import Algorithm, Vectors
from asr_fed.data.partition import Client
from asr_fed.data.partition_files import read_client, read_client_rows
from asr_fed.federation.client_store import ClientStore
from asr_fed.federation.own_labels import LABELS, nothing_learned, own_labels
from asr_fed.federation.shared_config import shared_config
from asr_fed.federation.totals import client_totals
from asr_fed.federation.upload import UNSENT, to_send
from asr_fed.model.state import frozen_base, layout, load_frozen
from asr_fed.model.tuning import is_partial, train_only
from asr_fed.runs.experiment import OpenRun, open_run, pick_device
from asr_fed.tasks.learners import Learner, create_learner, load_learner
from asr_fed.tasks.personalise import personalise_client
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.local import LocalTask
from asr_fed.training.task import Task
from asr_fed.wire.joining import read_query, report_message
from asr_fed.wire.messages import WHOLE, ClientSize, Gained, Order, Refused, Report, Timing
from asr_fed.wire.rounds import gains_message, read_order, reply_message

TOO_LITTLE = "too little speech to hold some back"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contribution:
    """What a client adds to an update: delta (float32 [state], or int64 as `codec.encode` makes it), its weight a_k,
    numbers to sum, and the algorithm's further vectors."""

    delta: np.ndarray
    weight: float
    totals: dict[str, int]
    others: Vectors = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """Lengths of the vectors that travel: the state, and by name those that the algorithm sends and sums."""

    state: int
    sent: Mapping[str, int] = field(default_factory=dict)
    summed: Mapping[str, int] = field(default_factory=dict)


Train = Callable[[str, Order], Contribution]
Personalise = Callable[[str, Order], Gained]


def open_worker(
    run_dir: str, worker: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]
) -> Callable[[Message], Message]:
    """The message handler of worker number `worker`, with the experiment of `run_dir` resident."""
    run = open_run(run_dir)
    config, partition = run.config, run.run_dir / "partition"
    learner = without_weights(run)
    training = run.task(learner, pick_device(config.device, worker))
    clients = read_client_rows(partition)
    algorithm: Algorithm = instantiate(config.algorithm)
    weighting: Weighting = instantiate(config.weighting)
    kept = run.run_dir / "clients"
    sizes = {name: ClientSize(own.examples, own.train_seconds, own.dev_seconds) for name, own in clients.items()}
    setup = shared_config(run, learner.model)
    report = Report(f"worker {worker + 1}", own=False, setup=setup.sha256, clients=sizes)

    def train(name: str, order: Order) -> Contribution:
        store = ClientStore(kept / order.run)
        return train_speech(run, training, algorithm, weighting, read_client(partition, clients[name]), order, store)

    def personalise(name: str, order: Order) -> Gained:
        assert isinstance(training, Recognition)  # the config of another task does not personalise
        return personalise_speech(run, training, read_client(partition, clients[name]), order.weights)

    shape = shape_of(algorithm, learner.model)
    app = build_client_app(train, report, shape, on_client, superseded, personalise if config.personalise else None)
    context = Context(0, worker + 1, {}, state=RecordDict(), run_config={})
    return lambda message: app(message, context)


def without_weights(run: OpenRun) -> Learner:
    """What is to be trained. Its trainable weights come with orders; its frozen ones are those of the warm start."""
    config = run.config
    learner = create_learner(config, run.tokenizer)
    if is_partial(config.federation) or frozen_base(learner.model):
        base = load_learner(run.checkpoints / "warm_start.pt", config)
        for model in (learner.model, base.model):
            train_only(model, config.federation)
        load_frozen(learner.model, base.model.state_dict())
    return learner


def build_client_app(
    train: Train,
    report: Report,
    shape: Shape,
    on_client: Callable[[str, float], None] = lambda client, seconds: None,
    superseded: Callable[[], bool] = lambda: False,
    personalise: Personalise | None = None,
) -> ClientApp:
    """A ClientApp around a function that trains one client and, if given, one that personalises it.

    Its handlers raise Refused for an invalid message, and for one of another setup than the report's.
    """
    app = ClientApp()

    @app.query()
    def join(message: Message, _context: Context) -> Message:
        if read_query(message).sha256 != report.setup:
            raise Refused("another config, tokenizer or frozen base than this node was opened with")
        return report_message(message, report)

    @app.train()
    def train_order(message: Message, _context: Context) -> Message:
        started = time.perf_counter()
        order = own_order(message, shape.sent)
        update, failures = train_clients(train, order, shape, on_client, superseded)
        return reply_message(message, update, failures, Timing(busy=time.perf_counter() - started))

    @app.evaluate()
    def personalise_order(message: Message, _context: Context) -> Message:
        started = time.perf_counter()
        order, gains = own_order(message, {}), dict[str, Gained]()
        if personalise is None:
            raise Refused("an order to personalise in an experiment that does not")

        def add(name: str) -> None:
            gains[name] = personalise(name, order)

        failures = for_each_client(add, order, on_client, superseded)
        return gains_message(message, gains, failures, Timing(busy=time.perf_counter() - started))

    def own_order(message: Message, others: Mapping[str, int]) -> Order:
        order = read_order(message, others)
        if order.setup != report.setup:
            raise Refused("an order for another setup than this node has")
        if order.weights.shape != (shape.state,):
            raise Refused(f"{len(order.weights)} weights for a model of {shape.state}")
        return order

    return app


def train_clients(
    train: Train,
    order: Order,
    shape: Shape,
    on_client: Callable[[str, float], None] = lambda client, seconds: None,
    superseded: Callable[[], bool] = lambda: False,
) -> tuple[Update, dict[str, str]]:
    """One update of the clients in `order`, and a reason for each client that is not in it."""
    update = empty(shape.state, shape.summed)

    def add(name: str) -> None:
        own = train(name, order)
        add_client(update, own.delta, own.weight, own.totals, own.others)

    return update, for_each_client(add, order, on_client, superseded)


def for_each_client(
    work: Callable[[str], None],
    order: Order,
    on_client: Callable[[str, float], None],
    superseded: Callable[[], bool],
) -> dict[str, str]:
    """Do the work for each client in `order`; returns a reason for each client for which it failed.

    One client's failure does not touch the others. Ends early, with nobody to read the result, once a newer order has
    superseded this one.
    """
    failures = {}
    for name in order.clients:
        if superseded():
            break
        started = time.perf_counter()
        try:
            work(name)
        except UpdateRefused as refused:
            failures[name] = str(refused)
        except Exception as error:
            # The text of an exception may quote a client's data: it stays in the node's own log.
            log.exception("client %s failed", name)
            failures[name] = f"{type(error).__name__} at {_place(error)}"
        on_client(name, time.perf_counter() - started)
    return failures


def shape_of(algorithm: Algorithm, model: nn.Module) -> Shape:
    parts = layout(model)
    return Shape(parts.length, algorithm.sent(parts), algorithm.summed(parts))


def train_speech(
    run: OpenRun,
    training: Task[Any],
    algorithm: Algorithm,
    weighting: Weighting,
    client: Client,
    order: Order,
    store: ClientStore,
) -> Contribution:
    """Train a client on its own speech. Raises UpdateRefused where it has none.

    A client without transcripts, and without a hypothesis that is good enough, adds a delta of 0 with the least weight:
    it is no failure, and nobody is told who it was. What the algorithm keeps for the client is written to `store`,
    under this round.
    """
    config = run.config
    if not client.train:
        raise UpdateRefused("no speech to train on")
    kept = store.read(client.id, before=order.server_round)
    own = own_labels(training, client, order, kept, config.federation.pseudo_labels)
    parts = layout(training.model)
    if not own.enough:
        store.write(client.id, order.server_round, {**kept, **own.kept})
        nothing = nothing_learned(parts.length, order.reference_loss)
        zeros = {name: np.zeros(length, np.float32) for name, length in algorithm.summed(parts).items()}
        return Contribution(nothing.delta, LEAST_WEIGHT, client_totals(nothing, own), zeros)
    terms = order.terms.get(client.id, WHOLE)
    task = LocalTask(
        own.training,
        own.client,
        order.weights,
        order.lr,
        order.server_round,
        config.seed,
        config.federation,
        terms.steps,
        order.reference_loss,
        own.measured_on,
    )
    step = algorithm.client(task, order.others, {name: kept[name] for name in kept if name not in (UNSENT, LABELS)})
    result = step.result
    totals = client_totals(result, own)
    errors = result.errors
    wer = errors.rate if errors.units else 1.0  # no errors in no words are no merit
    weight = weighting(Measured(result.num_examples, wer, result.loss, order.reference_loss, errors.units, order.prior))
    weight *= terms.weight
    upload = config.federation.upload
    sent, unsent = to_send(
        result.delta, weight, kept.get(UNSENT), parts, upload, config.seed, order.server_round, client.id
    )
    if keep := {**step.kept, **unsent, **own.kept}:
        store.write(client.id, order.server_round, keep)
    return Contribution(sent, weight, totals, step.summed)


def personalise_speech(run: OpenRun, training: Recognition, client: Client, weights: np.ndarray) -> Gained:
    """Fine-tune a client's own copy. Raises UpdateRefused where it has too little speech for that."""
    config = run.config
    if not client.train or not client.dev:
        raise UpdateRefused(TOO_LITTLE)
    gain = personalise_client(
        training,
        client,
        weights,
        config=config.personalisation,
        decoder=config.evaluation.client_decoder,
        seed=config.seed,
    )
    return Gained(gain.before.words.units, gain.before.words.errors, gain.after.words.errors)


def client_size(client: Client) -> ClientSize:
    """How much speech it has."""
    train, dev = (math.fsum(utterance.duration for utterance in part) for part in (client.train, client.dev))
    return ClientSize(len(client.train), train, dev)


def _place(error: Exception) -> str:
    frame: Any = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
