"""What travels: whole, and no more than what the page on privacy says."""

import pickle

import numpy as np
import pytest
from flwr.app import Message
from flwr.app.message import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from asr_fed.federation.flower_private import identify_process
from asr_fed.federation.messages import (
    order_message,
    read_order,
    read_reply,
    record_bytes,
    reply_message,
    weights_record,
)
from asr_fed.federation.update import Update, add_client, empty

WEIGHTS = np.linspace(-1, 1, 7, dtype=np.float32)


@pytest.fixture(autouse=True)
def a_process_that_flower_knows() -> None:
    identify_process(run_id=1, node_id=0)


def on_the_wire(content: RecordDict) -> RecordDict:
    """Through Flower's own serialisation, as between machines."""
    sent = recorddict_to_proto(content)
    return recorddict_from_proto(type(sent).FromString(sent.SerializeToString()))


def order() -> Message:
    return order_message(3, 12, 0.25, ["client_0002", "client_0000"], weights_record(WEIGHTS))


def update(weight: float = 1.5) -> Update:
    made = empty(len(WEIGHTS))
    add_client(made, WEIGHTS, weight, {"examples": 4, "loss": -(1 << 40)})
    return made


def test_an_order_arrives() -> None:
    read = read_order(order())
    assert (read.server_round, read.lr, read.clients) == (12, 0.25, ("client_0002", "client_0000"))
    assert read.weights.dtype == np.float32
    np.testing.assert_array_equal(read.weights, WEIGHTS)
    assert order().metadata.dst_node_id == 3


def check_reply(message: Message, sent: Update) -> None:
    read = read_reply(message)
    assert read.update is not None
    assert read.update.sums.dtype == np.int64
    np.testing.assert_array_equal(read.update.sums, sent.sums)
    assert (read.update.weight, read.update.peak, read.update.totals) == (sent.weight, sent.peak, sent.totals)
    assert read.failures == {"client_0000": "a weight of nan"}


def test_an_update_and_its_failures_arrive() -> None:
    reply = reply_message(order(), update(), {"client_0000": "a weight of nan"})
    check_reply(reply, update())
    check_reply(pickle.loads(pickle.dumps(reply)), update())


def test_they_arrive_over_a_network_too_with_sums_larger_than_64_bits() -> None:
    sent = update(2.0**28)  # squared, in units of 2**-32, this needs 88 bits
    assert sent.totals["weight_squared"].bit_length() > 64
    reply = reply_message(order(), sent, {"client_0000": "a weight of nan"})
    reply.content = on_the_wire(reply.content)
    check_reply(reply, sent)


def test_a_node_without_any_success_sends_no_arrays() -> None:
    reply = reply_message(order(), empty(7), {"client_0000": "no speech", "client_0002": "no speech"})
    assert record_bytes(reply) == 0
    read = read_reply(reply)
    assert read.update is None
    assert read.failures == {"client_0000": "no speech", "client_0002": "no speech"}


def test_bytes_are_those_of_the_arrays() -> None:
    bare = len(WEIGHTS) * 4, len(WEIGHTS) * 8
    for message, size in zip((order(), reply_message(order(), update(), {})), bare, strict=True):
        assert size <= record_bytes(message) <= size + 300  # the array's own header


def test_nothing_else_leaves_a_node() -> None:
    reply = reply_message(order(), update(), {})
    assert set(reply.content) == {"arrays", "metrics", "totals", "failures"}
    assert set(reply.content["arrays"]) == {"sums"}
    assert set(reply.content["metrics"]) == {"weight", "peak"}
    assert set(reply.content["totals"]) == {"clients", "weight_squared", "examples", "loss"}
