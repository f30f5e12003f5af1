"""Flower's objects, checked before they are deserialised.

A message travels as a tree of objects, each named by the hash of its bytes. Flower 1.41 inflates any tree that it is
given: an Array may name one chunk any number of times (1 MiB on the wire became 6.8 GB), and an invalid record raises
any exception of its parser. Here kinds, numbers and sizes are checked from the bytes alone, and every failure is a
`Refused`.

The names of Flower used here are not public; tests/wire/test_inflate.py holds Flower to them.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping

from flwr.app import Error, Message, MessageType, Metadata
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry, inflate_object_from_contents

from asr_fed.wire.messages import Refused

RECORDS = ("ArrayRecord", "ConfigRecord", "MetricRecord")
INSIDE = {  # what an object of each kind may hold
    "Message": ("RecordDict",),
    "RecordDict": RECORDS,
    "ArrayRecord": ("Array",),
    "Array": ("ArrayChunk",),
}
MOST_OBJECTS = 4096  # in a message: chunks have 5 MiB
LARGEST_RECORDS = 40 << 20  # bytes of everything but chunks: a setup may have 32 MiB, and takes more in Python
LARGEST_JSON = 1 << 20  # bytes of the description of one array or record
UNREADABLE = 3  # code of an error that stands for a message which could not be read


def recorded(proto: ProtoMessage) -> Metadata:
    """What Flower has noted of a message, by the word of its sender. Raises Refused for what it cannot express."""
    try:
        return metadata_from_proto(proto.metadata)
    except ValueError as error:
        raise Refused(f"a message of the type {proto.metadata.message_type!r:.40}") from error


def unreadable(proto: ProtoMessage, reason: str) -> Message:
    """An error in the place of a message."""
    metadata = ProtoMetadata()
    metadata.CopyFrom(proto.metadata)
    try:
        known = recorded(proto)
    except Refused:
        metadata.message_type = MessageType.QUERY
        known = metadata_from_proto(metadata)
    return make_message(known, error=Error(UNREADABLE, reason))


def object_ids(tree: ObjectTree) -> list[str]:
    """The ids of all objects of a tree, each once. Raises Refused if there are too many."""
    ids: dict[str, None] = {}
    for number, each in enumerate(iterate_object_tree(tree)):
        if number >= MOST_OBJECTS:
            raise Refused(f"a message of more than {MOST_OBJECTS} objects")
        ids[each.object_id] = None
    return list(ids)


def counted(pull: Callable[[str], bytes], largest: int) -> Callable[[str], bytes]:
    """A `pull`, which fetches the bytes of an object, that raises Refused once a message has too many bytes."""
    lock, most = threading.Lock(), largest + LARGEST_RECORDS
    fetched = 0

    def fetch(object_id: str) -> bytes:
        nonlocal fetched
        content = pull(object_id)
        with lock:
            fetched += len(content)
            if fetched > most:
                raise Refused(f"a message of more than {most} bytes")
        return content

    return fetch


def inflate(message_id: str, contents: dict[str, bytes], largest: int) -> Message:
    """The message made of these objects, bytes by id; they are removed from `contents`.

    `largest` limits the bytes of its arrays. Raises Refused for any fault.
    """
    try:
        _check(message_id, contents, largest)
        message = inflate_object_from_contents(message_id, contents)
    except Refused:
        raise
    except Exception as error:  # forged bytes can fail in many ways, MemoryError among them
        raise Refused(f"a message that cannot be read ({type(error).__name__})") from error
    assert isinstance(message, Message)
    return message


def _check(message_id: str, contents: Mapping[str, bytes], largest: int) -> None:
    arrays, records = 0, 0
    seen: set[str] = set()
    to_see: list[tuple[str, tuple[str, ...]]] = [(message_id, ("Message",))]
    while to_see:
        object_id, allowed = to_see.pop()
        if object_id not in contents:
            raise Refused("a message of which a part is missing")
        content = contents[object_id]
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind not in allowed:
            raise Refused(f"an object {kind!r:.40} in place of {' or '.join(allowed) or 'nothing'}")
        if object_id in seen:
            continue
        seen.add(object_id)
        if len(seen) + len(children) > MOST_OBJECTS:
            raise Refused(f"a message of more than {MOST_OBJECTS} objects")
        to_see += [(child, INSIDE.get(kind, ())) for child in children]
        records += 0 if kind == "ArrayChunk" else len(content)
        if records > LARGEST_RECORDS:
            raise Refused(f"a message with more than {LARGEST_RECORDS} bytes besides its arrays")
        if kind in ("RecordDict", "ArrayRecord", "Array") and len(content) > LARGEST_JSON:
            raise Refused(f"an object {kind} of {len(content)} bytes")
        if kind == "Array":
            arrays += _array_bytes(content, children, contents)
            if arrays > largest:
                raise Refused(f"arrays of more than {largest} bytes")


def _array_bytes(content: bytes, children: list[str], contents: Mapping[str, bytes]) -> int:
    """The size that an array will have: each mention of a chunk counts."""
    described = json.loads(get_object_body(content, inflatable_class_registry["Array"]).decode())
    chunks: Iterable[object] = described["arraychunk_ids"]
    sizes = [len(contents.get(child, b"")) for child in children]  # with the head: a little too much
    total = 0
    for index in chunks:
        if not isinstance(index, int) or not 0 <= index < len(sizes):
            raise Refused("an array of chunks that are not there")
        total += sizes[index]
    return total
