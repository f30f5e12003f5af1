"""Malformed messages by the ten thousand, as Flower's objects and as its records, to the server and to a node.

    python benchmarks/fuzz.py [--objects 50000] [--seed 1]

Each message is a good one that was changed at random: bytes of its objects, their kinds and children, JSON, chunk
lists, names, types and values of records. Whatever comes of it has to be a good message or a `Refused`. Any other
exception ends the command with exit status 1 and the change that led to it.
"""

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id

from asr_fed.aggregation.update import add_client, empty
from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.inflate import inflate
from asr_fed.wire.joining import query_message, read_query, read_report, report_message
from asr_fed.wire.messages import TOTALS, ClientSize, Gained, Order, Refused, Report, SharedConfig, Timing
from asr_fed.wire.rounds import (
    gains_message,
    order_arrays,
    order_message,
    read_gains,
    read_order,
    read_reply,
    reply_message,
    reply_ticket,
)

CLIENTS, LENGTH, LARGEST = ("clinic", "school"), 7, 1 << 20
Read = Callable[[Message], object]


def good_messages() -> list[tuple[str, Message, Read]]:
    """What travels in both directions, and who reads it."""
    identify_process(run_id=1, node_id=0)
    weights = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    order = Order(3, 0.1, CLIENTS, weights, {"control": np.ones(2, np.float32)}, 2.5, "t", "s")
    sent, query = order_message(3, order, order_arrays(order)), query_message(3, SharedConfig("seed: 1\n", b"tokens"))
    update = empty(LENGTH, {"control": 2})
    for _ in CLIENTS:
        add_client(update, weights, 1.5, dict.fromkeys(TOTALS[2:], 4), {"control": np.ones(2, np.float32)})
    sizes = {name: ClientSize(9, 30.0, 3.0) for name in CLIENTS}
    gains = {name: Gained(9, 3, 2) for name in CLIENTS}

    def reply(message: Message) -> object:
        return reply_ticket(message), read_reply(message, CLIENTS, LENGTH, {"control": 2})

    return [
        ("order", sent, lambda message: read_order(message, {"control": 2})),
        ("query", query, read_query),
        ("reply", reply_message(sent, update, {}, Timing(1.0)), reply),
        ("gains", gains_message(sent, gains, {}, Timing(1.0)), lambda message: read_gains(message, CLIENTS)),
        ("report", report_message(query, Report("clinic", True, "s", sizes)), read_report),
    ]


def values(rng: random.Random) -> Any:
    """A value that a record may hold, of any kind."""
    numbers = [0, -1, 1 << 62, -(1 << 63), 0.0, -1.5, float("nan"), float("inf")]
    scalar: Any = rng.choice([*numbers, "", "abc", "9" * 5000, "=A1", "\x1b[2J", b"\xff"])
    return scalar if rng.random() < 0.7 else [scalar] * rng.choice([0, 1, 2, 50])


def change_records(message: Message, rng: random.Random) -> Message:
    """Another content: a record gone, renamed, of another kind, or with another value."""
    content: dict[str, Any] = dict(message.content.items())
    for _ in range(rng.randint(1, 3)):
        names = list(content)
        name = rng.choice(names) if names else "arrays"
        match rng.randrange(6):
            case 0:
                content.pop(name, None)
            case 1:
                content[rng.choice(["arrays", "config", "node", "more", ""])] = content.get(name, ConfigRecord())
            case 2:
                content[name] = rng.choice([ConfigRecord(), MetricRecord(), ArrayRecord()])
            case 3:
                content[name] = ArrayRecord({rng.choice(["delta", "weights", "x"]): any_array(rng)})
            case _:
                record: Any = content.get(name)
                inner: Any = dict(record or {})
                inner[rng.choice([*inner, "extra"])] = values(rng)
                try:
                    content[name] = type(record)(inner)
                except (TypeError, ValueError):  # Flower does not make it, and so cannot have received it
                    content.pop(name, None)
    return Message(RecordDict(content), message.metadata.dst_node_id or 3, "train")


def any_array(rng: random.Random) -> Array:
    kind = rng.choice([np.float32, np.float64, np.int64, np.int8])
    array = Array(np.zeros(rng.choice([0, 1, LENGTH, 100]), kind))
    data = bytearray(array.data)
    if data and rng.random() < 0.5:
        data[rng.randrange(len(data))] = rng.randrange(256)
    shape = tuple(rng.choice([0, 1, 7, 1 << 40]) for _ in range(rng.randrange(3)))
    return Array(array.dtype, shape, rng.choice(["numpy.ndarray", "pickle"]), bytes(data))


def change_objects(message: Message, rng: random.Random) -> tuple[str, dict[str, bytes]]:
    """The objects of a message with some bytes, kinds, children or JSON changed; the id of the message first."""
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(objects))
        head, _, body = objects[name].partition(b"\0")
        match rng.randrange(6):
            case 0:
                place = bytearray(objects[name])
                place[rng.randrange(len(place))] = rng.randrange(256)
                objects[name] = bytes(place)
            case 1:
                kind = rng.choice([b"Message", b"Array", b"MetricRecord", b"ArrayChunk", b"Callable", b""])
                objects[name] = kind + b" " + head.partition(b" ")[2] + b"\0" + body
            case 2:
                children = rng.sample(list(objects), rng.randrange(min(4, len(objects))))
                parts = head.split(b" ")
                objects[name] = b" ".join([parts[0], ",".join(children).encode(), *parts[2:]]) + b"\0" + body
            case 3:
                body = rng.choice([b"\xff\xff\xff", b"", b"[" * 3000, b'{"a": ' + b"9" * 5000 + b"}", b"null", b"[]"])
                objects[name] = head + b"\0" + body
            case 4:
                described: dict[str, Any] = {"dtype": "x", "shape": [1], "stype": "numpy.ndarray"}
                chunks: list[Any] = [[0] * 5000, [9], [-1], "x", None, [[0]], {}]
                described["arraychunk_ids"] = rng.choice(chunks)
                objects[name] = head + b"\0" + json.dumps(described).encode()
            case _:
                del objects[name]
    root = message.object_id
    if root in objects and rng.random() < 0.3:
        objects[get_object_id(objects[root])] = objects[root]
    return root, objects


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng, goods, outcomes, started = random.Random(chosen.seed), good_messages(), Counter[str](), time.perf_counter()
    for number in range(chosen.objects):
        name, good, read = goods[number % len(goods)]
        try:
            identify_process(run_id=1, node_id=0)
            if rng.random() < 0.5:
                changed = inflate(*change_objects(good, rng), LARGEST)
                if changed.has_error():
                    raise Refused("an error")
            else:
                changed = change_records(good, rng)
            read(changed)
            outcomes[f"{name} taken"] += 1
        except Refused:
            outcomes[f"{name} refused"] += 1
        except Exception:
            traceback.print_exc()
            print(f"number {number} (seed {chosen.seed}): {name}")
            return 1
    seconds = time.perf_counter() - started
    print(", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())))
    print(f"{chosen.objects} messages in {seconds:.0f} s, seed {chosen.seed}: nothing but refusals.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
