"""What travels between server and node, as Flower records: this file is the whole of it.

Joining. Down: the setup (config without any path, tokenizer). Up: which clients the node hosts, and how much speech
each has.
A round. Down: the global state (float32) and an order (round, learning rate, client ids). Up: one update (int64 sums
and the numbers that were summed with them), the clients that failed, by name, and how long it took.
Personalisation, where the config has it. Down: an order as in a round. Up: for each client its word errors before and
after, on speech that it held back.

What arrives is checked before it is used: names, types, shapes, sizes and ranges. Arrays are read without unpickling
anything. `Refused` says what was wrong.
"""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from asr_fed.aggregation.update import LIMIT, Update
from asr_fed.data.identity import identity

TOTALS = (  # all that is summed over clients besides a_k * delta_k and a_k
    *("clients", "weight_squared", "loss", "word_errors", "words", "examples", "skipped_steps"),
    *("audio_milliseconds", "train_milliseconds"),
)
LONGEST_REASON = 300  # characters of a failure's reason that are kept
LARGEST_SETUP = 32 << 20  # bytes of config and tokenizer
HEADER = 256  # bytes that numpy's own header of an array may take


class Refused(ValueError):
    """A message that is not what it should be; the text says what was wrong with it."""


@dataclass(frozen=True)
class Setup:
    """What a node has to share with the server before it can train: YAML of the config, and the tokenizer."""

    config: str
    tokenizer: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.config.encode() + b"\0" + self.tokenizer).hexdigest()


@dataclass(frozen=True)
class Hosted:
    """How much speech a client has: utterances to train on, seconds to train on and to measure its WER on."""

    examples: int
    train_seconds: float
    dev_seconds: float


@dataclass(frozen=True)
class Report:
    """A node's answer on joining: the clients it hosts, and whether they are its own or simulated ones.

    A simulated client may be hosted by several nodes, and is trained by any of them.
    """

    name: str
    own: bool
    setup: str
    clients: dict[str, Hosted]


@dataclass(frozen=True)
class Order:
    """What a node is asked to do: train these clients from these weights, under this setup.

    `ticket` names the order; the answer repeats it.
    """

    server_round: int
    lr: float
    clients: tuple[str, ...]
    weights: np.ndarray
    ticket: str = ""
    setup: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds that a node spent on an order: `busy` training, and `start` on all before and after that."""

    busy: float = 0.0
    start: float = 0.0


@dataclass(frozen=True)
class Reply:
    """A node's answer. `update` is None where none of its clients yielded one; `failures` says why, by client."""

    update: Update | None
    failures: dict[str, str]
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class Gained:
    """Word errors on `words` words that a client held back, before and after it fine-tuned a copy of the recogniser."""

    words: int
    before: int
    after: int


def weights_record(weights: np.ndarray) -> ArrayRecord:
    return ArrayRecord({"state": pack_vector(weights)})


def query_message(node: int, setup: Setup) -> Message:
    content = ConfigRecord({"config": setup.config, "tokenizer": setup.tokenizer})
    return Message(RecordDict({"setup": content}), node, MessageType.QUERY, group_id="join")


def read_query(message: Message) -> Setup:
    """Raises Refused."""
    record = _record(message, "setup", ConfigRecord)
    config, tokenizer = record.get("config"), record.get("tokenizer")
    if not isinstance(config, str) or not isinstance(tokenizer, bytes):
        raise Refused("a setup without config or tokenizer")
    if len(config) + len(tokenizer) > LARGEST_SETUP:
        raise Refused(f"a setup of {len(config) + len(tokenizer)} bytes")
    return Setup(config, tokenizer)


def report_message(query: Message, report: Report) -> Message:
    hosted = list(report.clients.values())
    clients: dict[str, Any] = {
        "ids": list(report.clients),
        "examples": [client.examples for client in hosted],
        "train_seconds": [client.train_seconds for client in hosted],
        "dev_seconds": [client.dev_seconds for client in hosted],
    }
    node: dict[str, Any] = {"name": report.name, "own": report.own, "setup": report.setup}
    return Message(RecordDict({"clients": ConfigRecord(clients), "node": ConfigRecord(node)}), reply_to=query)


def read_report(message: Message) -> Report:
    """Raises Refused."""
    node, clients = _record(message, "node", ConfigRecord), _record(message, "clients", ConfigRecord)
    name, own, setup = node.get("name"), node.get("own"), node.get("setup")
    if not isinstance(name, str) or not isinstance(own, bool) or not isinstance(setup, str):
        raise Refused("a report without name, own or setup")
    columns = [clients.get(key) for key in ("ids", "examples", "train_seconds", "dev_seconds")]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise Refused("a report without a list of clients")
    hosted = {}
    for client, examples, train, dev in zip(*columns, strict=True):
        if not isinstance(client, str) or not _is_id(client) or client in hosted:
            raise Refused(f"a client id {client!r:.80}")
        if not _is_count(examples) or not _is_amount(train) or not _is_amount(dev):
            raise Refused(f"amounts of speech of {client} that are not numbers of at least 0")
        hosted[client] = Hosted(examples, float(train), float(dev))
    return Report(_readable(name)[:80], own, setup, hosted)


def order_message(
    node: int,
    server_round: int,
    lr: float,
    clients: Sequence[str],
    weights: ArrayRecord,
    *,
    ticket: str = "",
    setup: str = "",
    kind: str = MessageType.TRAIN,
) -> Message:
    """To train, or with `kind` EVALUATE to personalise."""
    config = ConfigRecord({"round": server_round, "lr": lr, "clients": list(clients), "ticket": ticket, "setup": setup})
    return Message(RecordDict({"arrays": weights, "config": config}), node, kind, group_id=str(server_round))


def without_clients(order: Message, names: set[str]) -> Message:
    """The same order, but for these clients."""
    config: Any = dict(_record(order, "config", ConfigRecord))
    config["clients"] = [name for name in config["clients"] if name not in names]
    content = RecordDict({"arrays": order.content["arrays"], "config": ConfigRecord(config)})
    meta = order.metadata
    return Message(content, meta.dst_node_id, meta.message_type, ttl=meta.ttl, group_id=meta.group_id)


def read_order(message: Message) -> Order:
    """Raises Refused."""
    config = _record(message, "config", ConfigRecord)
    number, lr, clients = config.get("round"), config.get("lr"), config.get("clients")
    ticket, setup = config.get("ticket"), config.get("setup")
    if not _is_count(number) or not _is_amount(lr):
        raise Refused("an order whose round or learning rate is not a number")
    if not isinstance(clients, list) or not all(isinstance(name, str) for name in clients):
        raise Refused("an order without a list of clients")
    if not isinstance(ticket, str) or not isinstance(setup, str):
        raise Refused("an order without ticket or setup")
    weights = _vector(_record(message, "arrays", ArrayRecord), "state", np.float32)
    if not np.isfinite(weights).all():
        raise Refused("weights that are not finite")
    # A copy, since a view of the message could not be written to, which torch does not take.
    return Order(number, float(lr), tuple(clients), weights.copy(), ticket, setup)


def reply_message(order: Message, update: Update, failures: Mapping[str, str], timing: Timing | None = None) -> Message:
    content = _account(order, failures, timing or Timing())
    if update.weight:
        content["arrays"] = ArrayRecord({"sums": pack_vector(update.sums)})
        content["metrics"] = MetricRecord({"weight": update.weight, "peak": update.peak})
        # Whole numbers of any size: a sum of squared weights can exceed the 64 bits of a MetricRecord.
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
    """What every answer to an order has."""
    return RecordDict(
        {
            "failures": _failures(failures),
            "node": ConfigRecord({"ticket": order_ticket(order)}),
            "timing": MetricRecord({"busy": timing.busy, "start": timing.start}),
        }
    )


def order_ticket(order: Message) -> str:
    return str(_record(order, "config", ConfigRecord).get("ticket", ""))


def order_clients(order: Message) -> tuple[str, ...]:
    return tuple(_record(order, "config", ConfigRecord)["clients"])


def reply_ticket(message: Message) -> str:
    """The ticket of the order that a reply answers. Raises Refused."""
    ticket = _record(message, "node", ConfigRecord).get("ticket")
    if not isinstance(ticket, str):
        raise Refused("a reply without ticket")
    return ticket


def add_failures(reply: Message, failures: Mapping[str, str]) -> None:
    """Name further clients as failed, in place."""
    record: Any = reply.content["failures"]
    named = dict(zip(record["clients"], record["reasons"], strict=True))
    reply.content["failures"] = _failures(named | dict(failures))


def read_reply(message: Message, clients: Sequence[str], length: int) -> Reply:
    """The reply to an order for `clients`, of which each is in the update or in the failures.

    `length` is the number of entries of the state; `sums` is a read-only view of the message. Raises Refused.
    """
    failures, timing = _read_account(message, clients)
    if len(failures) == len(clients):
        return Reply(None, failures, timing)
    update = _read_update(message, length)
    if update.totals["clients"] != len(clients) - len(failures):
        raise Refused(f"an update of {update.totals['clients']} clients for {len(clients) - len(failures)}")
    return Reply(update, failures, timing)


def read_gains(message: Message, clients: Sequence[str]) -> tuple[dict[str, Gained], dict[str, str], Timing]:
    """The answer to an order to personalise `clients`: each is in the gains or in the failures. Raises Refused."""
    failures, timing = _read_account(message, clients)
    if len(failures) == len(clients):
        return {}, failures, timing
    record = _record(message, "gains", ConfigRecord)
    columns = [record.get(key) for key in ("clients", "words", "before", "after")]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise Refused("gains without clients or counts")
    gains = {}
    for client, *counts in zip(*columns, strict=True):
        if not all(map(_is_count, counts)):
            raise Refused("gains that are not numbers of words")
        gains[client] = Gained(*counts)
    if len(columns[0]) + len(failures) != len(clients) or gains.keys() | failures.keys() != set(clients):
        raise Refused("gains of other clients than were asked for")
    return gains, failures, timing


def _read_account(message: Message, clients: Sequence[str]) -> tuple[dict[str, str], Timing]:
    named = _record(message, "failures", ConfigRecord)
    who, why = named.get("clients"), named.get("reasons")
    if not isinstance(who, list) or not isinstance(why, list) or len(who) != len(why):
        raise Refused("failures without clients or reasons")
    if not set(who) <= set(clients) or len(set(who)) != len(who):
        raise Refused("failures of clients that were not asked for")
    failures = {str(name): _readable(str(reason))[:LONGEST_REASON] for name, reason in zip(who, why, strict=True)}
    times = _record(message, "timing", MetricRecord)
    if not _is_amount(times.get("busy")) or not _is_amount(times.get("start")):
        raise Refused("times that are not numbers of at least 0")
    return failures, Timing(float(times["busy"]), float(times["start"]))


def _read_update(message: Message, length: int) -> Update:
    metrics = _record(message, "metrics", MetricRecord)
    weight, peak = metrics.get("weight"), metrics.get("peak")
    if not _is_count(weight) or not _is_count(peak) or not 0 < weight < LIMIT or not peak < LIMIT:
        raise Refused("a weight or peak out of its range")
    totals = {}
    record = _record(message, "totals", ConfigRecord)
    if set(record) != set(TOTALS):
        raise Refused("totals of other names")
    for name, text in record.items():
        # A loss may be below 0 by an odd loss function; a count may not.
        digits = text.removeprefix("-") if isinstance(text, str) and name == "loss" else text
        if not isinstance(digits, str) or not digits.isascii() or not digits.isdigit() or len(digits) > 60:
            raise Refused(f"a total of {name} that is not a whole number")
        totals[name] = int(str(text))
    sums = _vector(_record(message, "arrays", ArrayRecord), "sums", np.int64, length)
    largest = max(int(sums.max(initial=0)), -int(sums.min(initial=0)))
    if largest > peak:
        raise Refused("sums beyond their stated peak")
    return Update(sums, int(weight), int(peak), totals)


def record_bytes(message: Message) -> int:
    """Bytes of the arrays that a message carries."""
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())


def pack_vector(vector: np.ndarray) -> Array:
    """Flower's `Array(vector)`, byte for byte, but with one copy of the numbers in place of three."""
    header = io.BytesIO()
    vector = np.ascontiguousarray(vector)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vector))
    data = b"".join([header.getvalue(), vector.data.cast("B")])
    return Array(str(vector.dtype), tuple(vector.shape), "numpy.ndarray", data)


def _vector(record: ArrayRecord, name: str, dtype: type, length: int | None = None) -> np.ndarray:
    """A one-dimensional array, as a read-only view of the record's bytes."""
    if set(record) != {name}:
        raise Refused(f"arrays {sorted(record)} in place of {name}")
    array, size = record[name], np.dtype(dtype).itemsize
    if array.stype != "numpy.ndarray":
        raise Refused(f"an array of kind {array.stype:.40}")
    try:
        header = io.BytesIO(array.data[: 4 * HEADER])
        if np.lib.format.read_magic(header) != (1, 0):
            raise Refused("an array of another format")
        shape, _, found = np.lib.format.read_array_header_1_0(header)
    except Refused:
        raise
    except Exception as error:  # a forged header can fail in many ways
        raise Refused("an array that cannot be read") from error
    if found != np.dtype(dtype) or len(shape) != 1:
        raise Refused(f"an array {found}{shape} in place of {np.dtype(dtype)} numbers")
    if length is not None and shape[0] != length:
        raise Refused(f"{shape[0]} numbers for a state of {length}")
    if header.tell() > HEADER or len(array.data) - header.tell() != shape[0] * size:
        raise Refused(f"{len(array.data)} bytes for {shape[0]} numbers")
    return np.frombuffer(array.data, dtype, offset=header.tell())


def _record(message: Message, name: str, kind: type) -> Any:
    if not message.has_content() or name not in message.content:
        raise Refused(f"no record {name}")
    record = message.content[name]
    if not isinstance(record, kind):
        raise Refused(f"a record {name} of another kind")
    return record


def _failures(failures: Mapping[str, str]) -> ConfigRecord:
    return ConfigRecord({"clients": list(failures), "reasons": list(failures.values())})


def _readable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _is_id(text: str) -> bool:
    return 0 < len(text) <= 200 and text.isprintable() and identity(text) == text


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
