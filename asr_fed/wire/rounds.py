"""Orders and their answers, as Flower's messages. Every answer names the clients that are missing from it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from asr_fed.aggregation.codec import from_bfloat16, to_bfloat16
from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.update import DELTA, LIMIT, ONE, Sum, Update
from asr_fed.wire.messages import TOTALS, WHOLE, Gained, Gains, Order, Refused, Reply, Terms, Timing
from asr_fed.wire.packing import pack_whole, unpack_whole
from asr_fed.wire.records import (
    is_amount,
    is_count,
    is_number,
    named_record,
    only_records,
    pack_vectors,
    read_columns,
    read_vectors,
    told,
)

WEIGHTS, HALVES = "weights", "halves"  # the latter: those of 16 bits, in front of the others
LONGEST_REASON = 300  # characters of a failure's reason that are kept
ACCOUNT = ("failures", "node", "timing")  # records of every answer to an order
LONGEST_TOTAL = 60  # digits
NO_LIMIT = -1  # of steps
RUN = re.compile("[0-9a-f]{0,32}")


def order_arrays(order: Order) -> ArrayRecord:
    """The arrays of an order. They are the same for all nodes of a round, so they are packed once."""
    halves = {HALVES: to_bfloat16(order.weights[: order.halves])} if order.halves else {}
    return pack_vectors({**halves, WEIGHTS: order.weights[order.halves :], **order.others})


def order_message(node: int, order: Order, arrays: ArrayRecord, kind: str = MessageType.TRAIN) -> Message:
    """An order to train, or with `kind` EVALUATE to personalise; `arrays` come from `order_arrays`."""
    config = ConfigRecord(
        {
            "round": order.server_round,
            "lr": order.lr,
            "reference_loss": order.reference_loss,
            "clients": list(order.clients),
            "ticket": order.ticket,
            "setup": order.setup,
            "run": order.run,
            "prior_wer": order.prior.wer,
            "prior_variance": order.prior.variance,
        }
    )
    content = RecordDict({"arrays": arrays, "config": config})
    terms = {name: order.terms[name] for name in order.clients if order.terms.get(name, WHOLE) != WHOLE}
    if terms:
        content["terms"] = _terms_record(terms)
    return Message(content, node, kind, group_id=str(order.server_round))


def ticket(order: Order, node: int) -> str:
    """Identifies an order within a run, so that a late answer is recognised. Not secret."""
    return hashlib.sha256(f"{order.ticket} {node}".encode()).hexdigest()[:16]


def without_clients(message: Message, names: set[str]) -> Message:
    """The same order, but for these clients."""
    config: Any = dict(named_record(message, "config", ConfigRecord))
    config["clients"] = [name for name in config["clients"] if name not in names]
    content = RecordDict(dict(message.content.items()) | {"config": ConfigRecord(config)})
    meta = message.metadata
    return Message(content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)


def read_order(message: Message, others: Mapping[str, int] | None = None) -> Order:
    """`others` are the names and lengths of the algorithm's vectors. Raises Refused."""
    config = named_record(message, "config", ConfigRecord)
    number, lr, reference = config.get("round"), config.get("lr"), config.get("reference_loss")
    wer, variance = config.get("prior_wer"), config.get("prior_variance")
    clients, own_ticket, setup = config.get("clients"), config.get("ticket"), config.get("setup")
    run = config.get("run")
    if not is_count(number) or not is_amount(lr) or not is_number(reference):
        raise Refused("an order whose round, learning rate or loss is not a number")
    if not is_amount(wer) or not is_amount(variance):
        raise Refused("an order whose prior is not two numbers of at least 0")
    if not isinstance(clients, list) or not all(isinstance(name, str) for name in clients):
        raise Refused("an order without a list of clients")
    if not isinstance(own_ticket, str) or not isinstance(setup, str):
        raise Refused("an order without ticket or setup")
    if not isinstance(run, str) or not RUN.fullmatch(run):  # it becomes the name of a folder
        raise Refused("an order of a run that is not named by hexadecimal digits")
    arrays = named_record(message, "arrays", ArrayRecord)
    half = {HALVES: None} if HALVES in arrays else {}
    views = read_vectors(arrays, np.float32, {WEIGHTS: None, **half, **(others or {})}, {HALVES: np.uint16})
    halves = 0
    if half:
        packed = views.pop(HALVES)
        halves, views[WEIGHTS] = len(packed), np.concatenate([from_bfloat16(packed), views[WEIGHTS]])
    if not all(np.isfinite(view).all() for view in views.values()):
        raise Refused("weights that are not finite")
    # A copy, since a view of the message could not be written to, which torch does not take.
    vectors = {name: view.copy() for name, view in views.items()}
    weights = vectors.pop(WEIGHTS)
    return Order(
        number,
        float(lr),
        tuple(clients),
        weights,
        vectors,
        float(reference),
        own_ticket,
        setup,
        _read_terms(message),
        Prior(float(wer), float(variance)),
        halves,
        run,
    )


def _terms_record(terms: Mapping[str, Terms]) -> ConfigRecord:
    columns: dict[str, Any] = {
        "clients": list(terms),
        "steps": [NO_LIMIT if each.steps is None else each.steps for each in terms.values()],
        "weights": [each.weight for each in terms.values()],
    }
    return ConfigRecord(columns)


def _read_terms(message: Message) -> dict[str, Terms]:
    """Raises Refused."""
    if "terms" not in message.content:
        return {}
    record = named_record(message, "terms", ConfigRecord)
    columns = read_columns(record, ("clients", "steps", "weights"), "terms without clients or numbers")
    terms = {}
    for client, steps, weight in zip(*columns, strict=True):
        if not isinstance(client, str) or not (is_count(steps) or steps == NO_LIMIT):
            raise Refused("terms whose steps are not numbers")
        if not is_amount(weight) or not 0 < weight <= 1:
            raise Refused("terms with a factor that is not above 0 and at most 1")
        terms[client] = Terms(None if steps == NO_LIMIT else steps, float(weight))
    return terms


def order_setup(message: Message) -> str:
    """The setup that an order is for; nothing else of the order is read. Raises Refused."""
    setup = named_record(message, "config", ConfigRecord).get("setup")
    if not isinstance(setup, str):
        raise Refused("an order without ticket or setup")
    return setup


def order_clients(message: Message) -> tuple[str, ...]:
    return tuple(named_record(message, "config", ConfigRecord)["clients"])


def reply_message(order: Message, update: Update, failures: Mapping[str, str], timing: Timing | None = None) -> Message:
    """The answer to an order to train."""
    content = _account(order, failures, timing or Timing())
    if update.weight:
        content["arrays"] = pack_vectors({name: pack_whole(each.values) for name, each in update.sums.items()})
        content["weights"] = MetricRecord({name: each.weight for name, each in update.sums.items()})
        content["peaks"] = MetricRecord({name: each.peak for name, each in update.sums.items()})
        # As text, because a sum of squared weights can exceed the 64 bits of a MetricRecord.
        content["totals"] = ConfigRecord({name: str(value) for name, value in update.totals.items()})
    return Message(content, reply_to=order)


def gains_message(order: Message, gains: Mapping[str, Gained], failures: Mapping[str, str], timing: Timing) -> Message:
    """The answer to an order to personalise."""
    content = _account(order, failures, timing)
    columns: dict[str, Any] = {"clients": list(gains)}
    for name in ("words", "before", "after"):
        columns[name] = [getattr(gained, name) for gained in gains.values()]
    content["gains"] = ConfigRecord(columns)
    return Message(content, reply_to=order)


def _account(order: Message, failures: Mapping[str, str], timing: Timing) -> RecordDict:
    """The part that every answer to an order has."""
    config = named_record(order, "config", ConfigRecord)
    return RecordDict(
        {
            "failures": _failures(failures),
            "node": ConfigRecord({"ticket": str(config.get("ticket", ""))}),
            "timing": MetricRecord({"busy": timing.busy, "start": timing.start}),
        }
    )


def reply_ticket(message: Message) -> str:
    """The ticket of the order that a reply answers. Raises Refused."""
    found = named_record(message, "node", ConfigRecord).get("ticket")
    if not isinstance(found, str):
        raise Refused("a reply without ticket")
    return found


def add_failures(reply: Message, failures: Mapping[str, str]) -> None:
    """Name further clients as failed, in place."""
    record: Any = reply.content["failures"]
    named = dict(zip(record["clients"], record["reasons"], strict=True))
    reply.content["failures"] = _failures(named | dict(failures))


def read_reply(message: Message, clients: Sequence[str], length: int, others: Mapping[str, int] | None = None) -> Reply:
    """The reply to an order for `clients`. Each client is in the update or in the failures.

    `length` is the number of entries of the state, `others` those of the algorithm's vectors, by name. Raises
    Refused.
    """
    only_records(message, (*ACCOUNT, "arrays", "weights", "peaks", "totals"))
    failures, timing = _read_account(message, clients)
    if len(failures) == len(clients):
        return Reply(None, failures, timing)
    update = _read_update(message, {DELTA: length, **(others or {})})
    expected = len(clients) - len(failures)
    if update.totals["clients"] != expected:
        raise Refused(f"an update of {update.totals['clients']} clients for {expected}")
    if any(each.weight != expected * ONE for name, each in update.sums.items() if name != DELTA):
        raise Refused("a vector that does not count once per client")
    return Reply(update, failures, timing)


def read_gains(message: Message, clients: Sequence[str]) -> Gains:
    """The answer to an order to personalise `clients`: each is in the gains or in the failures. Raises Refused."""
    only_records(message, (*ACCOUNT, "gains"))
    failures, timing = _read_account(message, clients)
    if len(failures) == len(clients):
        return Gains({}, failures, timing)
    record = named_record(message, "gains", ConfigRecord)
    columns = read_columns(record, ("clients", "words", "before", "after"), "gains without clients or counts")
    gained = {}
    for client, *counts in zip(*columns, strict=True):
        if not all(map(is_count, counts)):
            raise Refused("gains that are not numbers of words")
        gained[client] = Gained(*counts)
    if len(columns[0]) + len(failures) != len(clients) or gained.keys() | failures.keys() != set(clients):
        raise Refused("gains of other clients than were asked for")
    return Gains(gained, failures, timing)


def _read_account(message: Message, clients: Sequence[str]) -> tuple[dict[str, str], Timing]:
    named = named_record(message, "failures", ConfigRecord)
    who, why = read_columns(named, ("clients", "reasons"), "failures without clients or reasons")
    if not set(who) <= set(clients) or len(set(who)) != len(who):
        raise Refused("failures of clients that were not asked for")
    failures = {str(name): told(reason) for name, reason in zip(who, why, strict=True)}
    times = named_record(message, "timing", MetricRecord)
    if not is_amount(times.get("busy")) or not is_amount(times.get("start")):
        raise Refused("times that are not numbers of at least 0")
    return failures, Timing(float(times["busy"]), float(times["start"]))


def _read_update(message: Message, lengths: Mapping[str, int]) -> Update:
    weights, peaks = named_record(message, "weights", MetricRecord), named_record(message, "peaks", MetricRecord)
    if set(weights) != set(lengths) or set(peaks) != set(lengths):
        raise Refused("weights or peaks of other vectors")
    for name in lengths:
        weight, peak = weights[name], peaks[name]
        if not is_count(weight) or not is_count(peak) or not 0 < weight < LIMIT or not peak < LIMIT:
            raise Refused("a weight or peak out of its range")
    totals = _read_totals(named_record(message, "totals", ConfigRecord))
    packed = read_vectors(named_record(message, "arrays", ArrayRecord), np.uint8, dict.fromkeys(lengths))
    arrays = {name: unpack_whole(packed[name], length) for name, length in lengths.items()}
    for name, values in arrays.items():
        if max(int(values.max(initial=0)), -int(values.min(initial=0))) > peaks[name]:
            raise Refused("sums beyond their stated peak")
    return Update({name: Sum(arrays[name], int(weights[name]), int(peaks[name])) for name in lengths}, totals)


def _read_totals(record: ConfigRecord) -> dict[str, int]:
    if set(record) != set(TOTALS):
        raise Refused("totals of other names")
    totals = {}
    for name, text in record.items():
        # A loss can be negative with some loss functions; a count cannot.
        digits = text.removeprefix("-") if isinstance(text, str) and name == "loss" else text
        if not isinstance(digits, str) or not digits.isascii() or not digits.isdigit() or len(digits) > LONGEST_TOTAL:
            raise Refused(f"a total of {name} that is not a whole number")
        totals[name] = int(str(text))
    return totals


def _failures(failures: Mapping[str, str]) -> ConfigRecord:
    return ConfigRecord({"clients": list(failures), "reasons": list(failures.values())})
