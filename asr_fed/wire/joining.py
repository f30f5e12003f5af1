"""How a node joins: the shared config goes down, the clients that the node hosts come up."""

import re
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from asr_fed.wire.messages import ClientSize, Refused, Report, SharedConfig
from asr_fed.wire.records import is_amount, is_count, is_id, named_record, only_records, read_columns, told

LARGEST_SETUP = 32 << 20  # bytes of config, tokenizer and codebook
# Seconds of speech that a client can have. Sums of larger ones could leave the range of a float.
LONGEST_UTTERANCE, MOST_DEV_SECONDS = 3600, 1e9


def query_message(node: int, setup: SharedConfig) -> Message:
    content = ConfigRecord(
        {"config": setup.config, "tokenizer": setup.tokenizer, "base": setup.base, "drawn": setup.drawn}
    )
    return Message(RecordDict({"setup": content}), node, MessageType.QUERY, group_id="join")


def read_query(message: Message) -> SharedConfig:
    """Raises Refused."""
    record = named_record(message, "setup", ConfigRecord)
    config, tokenizer, base = record.get("config"), record.get("tokenizer"), record.get("base")
    drawn = record.get("drawn")
    if not isinstance(config, str) or not isinstance(tokenizer, bytes):
        raise Refused("a setup without config or tokenizer")
    if not isinstance(base, str) or not re.fullmatch(r"([0-9a-f]{64})?", base):
        raise Refused("a setup without the hash of the frozen base")
    if not isinstance(drawn, bytes):
        raise Refused("a setup whose frozen part is no bytes")
    if (size := len(config) + len(tokenizer) + len(drawn)) > LARGEST_SETUP:
        raise Refused(f"a setup of {size} bytes")
    return SharedConfig(config, tokenizer, base, drawn)


def report_message(query: Message, report: Report) -> Message:
    sizes = list(report.clients.values())
    clients: dict[str, Any] = {
        "ids": list(report.clients),
        "examples": [client.examples for client in sizes],
        "train_seconds": [client.train_seconds for client in sizes],
        "dev_seconds": [client.dev_seconds for client in sizes],
    }
    node: dict[str, Any] = {"name": report.name, "own": report.own, "setup": report.setup}
    return Message(RecordDict({"clients": ConfigRecord(clients), "node": ConfigRecord(node)}), reply_to=query)


def read_report(message: Message) -> Report:
    """Raises Refused."""
    only_records(message, ("node", "clients"))
    node, clients = named_record(message, "node", ConfigRecord), named_record(message, "clients", ConfigRecord)
    name, own, setup = node.get("name"), node.get("own"), node.get("setup")
    if not isinstance(name, str) or not isinstance(own, bool) or not isinstance(setup, str):
        raise Refused("a report without name, own or setup")
    columns = read_columns(
        clients, ("ids", "examples", "train_seconds", "dev_seconds"), "a report without a list of clients"
    )
    sizes: dict[str, ClientSize] = {}
    for client, examples, train, dev in zip(*columns, strict=True):
        if not is_id(client) or client in sizes:
            raise Refused(f"a client id {client!r:.80}")
        if not is_count(examples) or not is_amount(train) or not is_amount(dev):
            raise Refused(f"amounts of speech of {client} that are not numbers of at least 0")
        if train > LONGEST_UTTERANCE * examples or dev > MOST_DEV_SECONDS:
            raise Refused(f"more seconds of speech of {client} than its utterances can have")
        sizes[client] = ClientSize(examples, float(train), float(dev))
    return Report(told(name, 80), own, setup, sizes)
