"""What is made of Flower's objects, whole and forged; and the contract with the names of Flower that are used."""

import json
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.inflate import LARGEST_JSON, LARGEST_RECORDS, MOST_OBJECTS, counted, inflate, object_ids
from asr_fed.wire.messages import Refused
from tests.wire.forged import Objects, add, around, forge, objects_of, small

MIB = 1 << 20


@pytest.fixture(autouse=True)
def a_process_that_flower_knows() -> None:
    identify_process(run_id=1, node_id=0)


def message() -> Message:
    numbers = np.zeros(2 * MIB, np.int64)  # 16 MiB: several chunks, of which some are alike
    made = small(ArrayRecord({"delta": Array(numbers), "control": Array(np.arange(5))}))
    made.content["totals"] = ConfigRecord({"clients": "3"})
    made.content["weights"] = MetricRecord({"delta": 4})
    return made


def test_a_whole_message_is_inflated_as_flower_does() -> None:
    sent = message()
    inflated = inflate(sent.object_id, objects_of(sent), 17 * MIB)
    assert inflated.metadata.dst_node_id == 3
    assert dict(inflated.content.config_records) == dict(sent.content.config_records)
    assert dict(inflated.content.metric_records) == dict(sent.content.metric_records)
    np.testing.assert_array_equal(inflated.content["record"]["delta"].numpy(), 0)
    np.testing.assert_array_equal(inflated.content["record"]["control"].numpy(), np.arange(5))
    assert set(object_ids(get_object_tree(sent))) == set(objects_of(sent))


def test_a_chunk_named_many_times_is_refused_before_it_is_inflated() -> None:
    """1 MiB on the wire, 6.8 GB in memory."""
    objects: Objects = {}
    chunk = add(objects, "ArrayChunk", bytes(MIB))
    described = {"dtype": "int64", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 6800}
    array = add(objects, "Array", json.dumps(described).encode(), [chunk])
    record = add(objects, "ArrayRecord", json.dumps({"delta": array}).encode(), [array])
    forged = around(objects, message(), {"arrays": record})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="arrays of more than"):
        inflate(forged, objects, 64 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def record_of(kind: str, body: bytes, children: Callable[[Objects], list[str]] = lambda objects: []) -> Objects:
    """A message of one forged record, the message's id first."""
    objects: Objects = {}
    inner = add(objects, kind, body, children(objects))
    root = around(objects, message(), {"record": inner})
    return {root: objects[root], **objects}


def nested(depth: int) -> Callable[[Objects], list[str]]:
    def children(objects: Objects) -> list[str]:
        below: list[str] = []
        for _ in range(depth):
            below = [add(objects, "ArrayRecord", json.dumps(dict(enumerate(below))).encode(), below)]
        return below

    return children


ARRAY = {"dtype": "f", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": []}
FORGED: dict[str, tuple[Any, ...]] = {
    "no protobuf in a MetricRecord": ("MetricRecord", b"\xff\xff\xff"),
    "no protobuf in a ConfigRecord": ("ConfigRecord", b"\xff\xff\xff"),
    "a RecordDict inside a RecordDict": ("RecordDict", b"{}"),
    "an Array for a record": ("Array", json.dumps(ARRAY).encode()),
    "deep nesting": ("ArrayRecord", b"{}", nested(400)),
    "no JSON": ("ArrayRecord", b"{"),
    "JSON of another kind": ("ArrayRecord", b"[]"),
    "deep JSON": ("ArrayRecord", b"[" * 100_000),
    "a number of 5,000 digits": ("ArrayRecord", b'{"a": ' + b"9" * 5000 + b"}"),
    "long JSON": ("ArrayRecord", b" " * LARGEST_JSON + b"{}"),
    "no UTF-8": ("ArrayRecord", b"\xff\xfe"),
    "a part that is missing": ("ArrayRecord", b"{}", lambda objects: ["0" * 64]),
    "an unknown kind": ("Callable", b"{}"),
    "a MetricRecord with children": ("MetricRecord", b"", lambda o: [add(o, "MetricRecord", b"")]),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_objects_are_refused(what: str) -> None:
    objects = record_of(*FORGED[what])
    with pytest.raises(Refused):
        inflate(next(iter(objects)), objects, MIB)


@pytest.mark.parametrize(
    "chunks", [[7], [-1], ["0"], [0.0], "00", {"0": 0}, None, [[0]]], ids=lambda chunks: repr(chunks)
)
def test_an_array_of_chunks_that_are_not_there_is_refused(chunks: object) -> None:
    objects: Objects = {}
    chunk = add(objects, "ArrayChunk", b"123")
    array = add(objects, "Array", json.dumps(ARRAY | {"arraychunk_ids": chunks}).encode(), [chunk])
    record = add(objects, "ArrayRecord", json.dumps({"delta": array}).encode(), [array])
    forged = around(objects, message(), {"arrays": record})
    with pytest.raises(Refused):
        inflate(forged, objects, MIB)


@pytest.mark.parametrize("content", [b"", b"\0", b"Message", b"Message  0\0", b"Message x\0", b"\xff \xff\0"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(Refused):
        inflate("a", {"a": content}, MIB)


def test_records_may_not_be_large_either() -> None:
    """Python makes many times their bytes of them."""
    objects = record_of("ConfigRecord", bytes(LARGEST_RECORDS))
    with pytest.raises(Refused, match="besides its arrays"):
        inflate(next(iter(objects)), objects, MIB)


def test_objects_are_counted_before_they_are_fetched() -> None:
    many = ObjectTree(object_id="root", children=[ObjectTree(object_id=str(i)) for i in range(MOST_OBJECTS)])
    with pytest.raises(Refused, match="objects"):
        object_ids(many)
    twice = ObjectTree(object_id="root", children=[ObjectTree(object_id="a"), ObjectTree(object_id="a")])
    assert object_ids(twice) == ["a", "root"]


def test_bytes_are_counted_while_they_are_fetched() -> None:
    fetch = counted(lambda object_id: bytes(LARGEST_RECORDS // 2), largest=10)
    fetch("a")
    fetch("b")
    with pytest.raises(Refused, match="bytes"):
        fetch("c")


def test_flower_still_inflates_what_is_forged_here() -> None:
    """Otherwise these tests would test nothing: a chunk named twice, which the honest sum of sizes has to see."""
    objects: Objects = {}
    chunk = add(objects, "ArrayChunk", b"123")
    array = add(objects, "Array", json.dumps(ARRAY | {"arraychunk_ids": [0, 0]}).encode(), [chunk])
    assert inflate_object_from_contents(array, objects).data == b"123123"  # type: ignore[attr-defined]
    assert forge("ArrayChunk", b"123") == b"ArrayChunk  3\x00123"
