"""Messages as Flower's objects, whole and forged: what a node or a server without asr_fed's care may send."""

import json

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id

Objects = dict[str, bytes]


def objects_of(message: Message) -> Objects:
    return {object_id: each.deflate() for object_id, each in get_all_nested_objects(message).items()}


def forge(kind: str, body: bytes, children: list[str] = (), length: int | None = None) -> bytes:  # type: ignore[assignment]
    """The bytes of an object as Flower writes them."""
    return f"{kind} {','.join(children)} {len(body) if length is None else length}".encode() + b"\0" + body


def add(objects: Objects, kind: str, body: bytes, children: list[str] = ()) -> str:  # type: ignore[assignment]
    """Forge an object; returns its id."""
    content = forge(kind, body, children)
    object_id = get_object_id(content)
    objects[object_id] = content
    return object_id


def around(objects: Objects, message: Message, records: dict[str, str]) -> str:
    """A message like `message`, of these records (id by name), beside its objects; returns its id."""
    content = add(objects, "RecordDict", json.dumps(records).encode(), list(dict.fromkeys(records.values())))
    body = message.deflate().split(b"\0", 1)[1]
    return add(objects, "Message", body, [content])


def small(record: ArrayRecord | ConfigRecord | MetricRecord) -> Message:
    return Message(RecordDict({"record": record}), 3, MessageType.TRAIN)
