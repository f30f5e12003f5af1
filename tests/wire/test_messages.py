"""What travels: whole, no more than what the page on privacy says, and nothing that is not what it should be."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.app.message import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.update import Update, add_client, empty
from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.joining import LARGEST_SETUP, query_message, read_query, read_report, report_message
from asr_fed.wire.messages import (
    TOTALS,
    ClientSize,
    Gained,
    Gains,
    Order,
    Refused,
    Reply,
    Report,
    SharedConfig,
    Terms,
    Timing,
)
from asr_fed.wire.packing import pack_whole
from asr_fed.wire.records import pack_vector, record_bytes, told
from asr_fed.wire.rounds import (
    add_failures,
    gains_message,
    order_arrays,
    order_message,
    read_gains,
    read_order,
    read_reply,
    reply_message,
    reply_ticket,
    without_clients,
)

ROOT = Path(__file__).parents[2]
WEIGHTS = np.linspace(-1, 1, 7, dtype=np.float32)
CONTROL = np.array([0.5, -0.5], np.float32)
OTHERS = {"control": 2}
CLIENTS = ("client_0002", "client_0000")
BASE = "5e" * 32
SETUP = SharedConfig("seed: 1\n", b"tokens", BASE, b"codebook")


@pytest.fixture(autouse=True)
def a_process_that_flower_knows() -> None:
    identify_process(run_id=1, node_id=0)


def on_the_wire(content: RecordDict) -> RecordDict:
    """Through Flower's own serialisation, as between machines."""
    sent = recorddict_to_proto(content)
    return recorddict_from_proto(type(sent).FromString(sent.SerializeToString()))


PRIOR = Prior(0.18, 0.01)


def order() -> Message:
    sent = Order(12, 0.25, CLIENTS, WEIGHTS, {"control": CONTROL}, 3.5, "t1", "s1", prior=PRIOR, run="0a1f")
    return order_message(3, sent, order_arrays(sent))


def update(weight: float = 1.5) -> Update:
    made = empty(len(WEIGHTS), OTHERS)
    numbers = dict.fromkeys(TOTALS[2:], 4) | {"loss": -(1 << 40)}
    add_client(made, WEIGHTS, weight, numbers, {"control": CONTROL})
    return made


def reply(weight: float = 1.5) -> Message:
    return reply_message(order(), update(weight), {"client_0000": "a weight of nan"}, Timing(busy=2.5))


def read(message: Message) -> Reply:
    return read_reply(message, CLIENTS, len(WEIGHTS), OTHERS)


def test_an_order_arrives() -> None:
    message = order()
    message.content = on_the_wire(message.content)
    arrived = read_order(message, OTHERS)
    np.testing.assert_array_equal(arrived.weights, WEIGHTS)
    np.testing.assert_array_equal(arrived.others["control"], CONTROL)
    assert arrived.weights.dtype == arrived.others["control"].dtype == np.float32
    assert arrived == Order(
        12, 0.25, CLIENTS, arrived.weights, arrived.others, 3.5, "t1", "s1", prior=PRIOR, run="0a1f"
    )
    assert message.metadata.dst_node_id == 3


def test_the_first_weights_of_an_order_may_travel_in_half_of_the_bits() -> None:
    weights = WEIGHTS.copy()
    weights[:5] = (1.0, -0.5, 3.0, 2.0**-20, 0.0)  # each a bfloat16
    whole = Order(12, 0.25, CLIENTS, weights, {"control": CONTROL}, 3.5, "t1", "s1", prior=PRIOR)
    sent = replace(whole, halves=5)
    message = order_message(3, sent, order_arrays(sent))
    message.content = on_the_wire(message.content)
    arrived = read_order(message, OTHERS)
    np.testing.assert_array_equal(arrived.weights, weights)
    assert arrived.weights.dtype == np.float32 and arrived.weights.flags.writeable
    assert arrived == replace(sent, weights=arrived.weights, others=arrived.others)
    long = replace(whole, weights=np.ones(10_000, np.float32))
    full, half = (
        record_bytes(order_message(3, each, order_arrays(each))) for each in (long, replace(long, halves=10_000))
    )
    assert half < 0.52 * full
    for wrong in (
        np.array([0x7F80], np.uint16),
        np.zeros(3, np.float32),
        np.zeros((2, 2), np.uint16),
    ):  # infinite first
        message.content["arrays"]["halves"] = Array(wrong)  # type: ignore[index]
        with pytest.raises(Refused):
            read_order(message, OTHERS)


def test_terms_arrive_of_those_who_are_asked_for_other_than_a_whole_round() -> None:
    terms = {"client_0000": Terms(3, 0.5), "client_0002": Terms(), "elsewhere": Terms(1, 0.1)}
    message = order_message(3, replace(read_order(order(), OTHERS), terms=terms), order().content["arrays"])
    message.content = on_the_wire(message.content)
    assert read_order(message, OTHERS).terms == {"client_0000": Terms(3, 0.5)}
    assert read_order(without_clients(message, {"client_0002"}), OTHERS).terms == {"client_0000": Terms(3, 0.5)}
    columns = {"clients": ["client_0000"], "steps": [3], "weights": [0.5]}
    for wrong in (
        {"steps": [-2]},
        {"weights": [0.0]},
        {"weights": [1.5]},
        {"weights": [float("nan")]},
        {"clients": [3]},
    ):
        message.content["terms"] = ConfigRecord(columns | wrong)
        with pytest.raises(Refused):
            read_order(message, OTHERS)


def test_an_order_can_be_made_smaller_without_a_copy_of_the_weights() -> None:
    whole = order()
    smaller = without_clients(whole, {"client_0002"})
    assert read_order(smaller, OTHERS).clients == ("client_0000",) and read_order(smaller, OTHERS).ticket == "t1"
    assert smaller.content["arrays"] is whole.content["arrays"]
    assert smaller.metadata.dst_node_id == 3


def check_reply(message: Message, sent: Update) -> None:
    arrived = read(message)
    assert arrived.update is not None
    assert arrived.update.sums.keys() == sent.sums.keys() and arrived.update.totals == sent.totals
    for name, each in arrived.update.sums.items():
        assert each.values.dtype == np.int64 and (each.weight, each.peak) == (
            sent.sums[name].weight,
            sent.sums[name].peak,
        )
        np.testing.assert_array_equal(each.values, sent.sums[name].values)
    assert arrived.failures == {"client_0000": "a weight of nan"}
    assert arrived.timing == Timing(busy=2.5) and reply_ticket(message) == "t1"


def test_an_update_and_its_failures_arrive() -> None:
    check_reply(reply(), update())
    check_reply(pickle.loads(pickle.dumps(reply())), update())


def test_they_arrive_over_a_network_too_with_sums_larger_than_64_bits() -> None:
    sent = update(2.0**28)  # squared, in units of 2**-32, this needs 88 bits
    assert sent.totals["weight_squared"].bit_length() > 64
    message = reply(2.0**28)
    message.content = on_the_wire(message.content)
    check_reply(message, sent)


def test_a_node_without_any_success_sends_no_arrays() -> None:
    message = reply_message(order(), empty(7), {"client_0000": "no speech", "client_0002": "no speech"})
    assert record_bytes(message) == 0
    assert read(message) == Reply(None, {"client_0000": "no speech", "client_0002": "no speech"})


def test_failures_can_be_named_later() -> None:
    message = reply_message(without_clients(order(), {"client_0000"}), update(), {}, Timing(busy=2.5))
    add_failures(message, {"client_0000": "a weight of nan"})
    check_reply(message, update())


def test_bytes_are_those_of_the_arrays() -> None:
    numbers = len(WEIGHTS) + len(CONTROL)
    for message, size in ((order(), numbers * 4), (reply(), numbers * 5)):  # packed: an entry of 1.5 needs 33 bits
        assert size <= record_bytes(message) <= size + 600  # the arrays' own headers


def test_vectors_are_packed_as_flower_packs_them() -> None:
    assert pack_vector(WEIGHTS) == Array(WEIGHTS)
    np.testing.assert_array_equal(pack_vector(np.arange(6)[::2]).numpy(), [0, 2, 4])


def test_nothing_else_leaves_a_node() -> None:
    message = reply()
    assert set(message.content) == {"arrays", "weights", "peaks", "totals", "failures", "node", "timing"}
    for record in ("arrays", "weights", "peaks"):
        assert set(message.content[record]) == {"delta", "control"}
    assert set(message.content["totals"]) == set(TOTALS)
    assert set(message.content["node"]) == {"ticket"}
    assert set(message.content["timing"]) == {"busy", "start"}
    page = (ROOT / "docs" / "what_leaves_a_client.md").read_text(encoding="utf-8")
    for sent in (message, order()):
        named = {f"{record}.{key}" for record in sent.content for key in sent.content[record] if key != "control"}
        assert {name for name in named if f"`{name}`" not in page} == set()


def test_gains_arrive() -> None:
    gains, failures = {CLIENTS[0]: Gained(words=9, before=5, after=4)}, {CLIENTS[1]: "too little"}
    message = gains_message(order(), gains, failures, Timing(busy=1.5, start=0.5))
    message.content = on_the_wire(message.content)
    assert set(message.content) == {"gains", "failures", "node", "timing"}
    assert set(message.content["gains"]) == {"clients", "words", "before", "after"}
    assert read_gains(message, CLIENTS) == Gains(gains, failures, Timing(busy=1.5, start=0.5))


def test_a_node_joins() -> None:
    query = query_message(4, SETUP)
    query.content = on_the_wire(query.content)
    assert read_query(query) == SETUP
    report = Report("clinic", True, SETUP.sha256, {"a": ClientSize(3, 12.5, 0.0), "b": ClientSize(0, 0.0, 1.0)})
    message = report_message(query, report)
    message.content = on_the_wire(message.content)
    assert read_report(message) == report


def test_a_setup_is_named_by_all_of_its_content() -> None:
    hashes = {
        SharedConfig(*content).sha256
        for content in (("a", b"b"), ("a", b"c"), ("b", b"b"), ("a\0", b"b"), ("ab", b""), ("a", b"b", BASE))
    }
    assert len(hashes) == 6


def put(record: str, content: object) -> Callable[[Message], None]:
    return lambda message: message.content.__setitem__(record, content)  # type: ignore[arg-type]


def change(record: str, key: str, value: object) -> Callable[[Message], None]:
    return lambda message: message.content[record].__setitem__(key, value)  # type: ignore[index]


def remove(record: str) -> Callable[[Message], None]:
    return lambda message: message.content.__delitem__(record)


def with_control(delta: Array, **more: Array) -> ArrayRecord:
    return ArrayRecord({"delta": delta, "control": Array(pack_whole(np.zeros(2, np.int64))), **more})


def sums(array: np.ndarray) -> Callable[[Message], None]:
    return put("arrays", with_control(Array(array)))


def forged(shape: tuple[int, ...], data: bytes, descr: str = "|u1") -> ArrayRecord:
    """An array whose header lies."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return with_control(Array("uint8", (7,), "numpy.ndarray", header.getvalue() + data))


class Explosive:
    """Unpickling one creates a file."""

    def __reduce__(self) -> tuple:
        return (open, ("exploded", "w"))


def pickled_array() -> ArrayRecord:
    file = io.BytesIO()
    np.save(file, np.array([Explosive()], dtype=object), allow_pickle=True)
    return with_control(Array("int64", (7,), "numpy.ndarray", file.getvalue()))


GOOD = pack_whole(update().sums["delta"].values)
FORGERIES: dict[str, tuple[Callable[[Message], None], str]] = {
    "wrong length": (sums(pack_whole(np.ones(1025, np.int64))), "bytes for a sum of 7 numbers"),
    "not packed": (sums(np.zeros(7, np.int64)), r"int64\(7,\) in place of uint8"),
    "wrong shape": (sums(np.zeros((7, 1), np.uint8)), r"uint8\(7, 1\)"),
    "wrong type": (sums(np.zeros(7)), "float64"),
    "objects": (put("arrays", pickled_array()), "object"),
    "a huge shape": (put("arrays", forged((1 << 40,), b"")), "bytes for 1099511627776 numbers"),
    "too few bytes": (put("arrays", forged((7,), b"\0" * 3)), "bytes for 7 numbers"),
    "too many bytes": (put("arrays", forged((7,), b"\0" * 4096)), "bytes for 7 numbers"),
    "no header": (
        put("arrays", with_control(Array("int64", (7,), "numpy.ndarray", b"abc"))),
        "cannot be read",
    ),
    "another kind": (put("arrays", with_control(Array("int64", (7,), "pickle", b"abc"))), "kind pickle"),
    "another name": (put("arrays", ArrayRecord({"weights": Array(GOOD)})), "weights"),
    "two arrays": (
        put("arrays", ArrayRecord({"delta": Array(GOOD), "control": Array(GOOD), "more": Array(GOOD)})),
        "more",
    ),
    "no arrays": (remove("arrays"), "no record arrays"),
    "arrays of another kind": (put("arrays", MetricRecord({"delta": 1})), "another kind"),
    "beyond the peak": (change("peaks", "delta", 1), "peak"),
    "no weight": (change("weights", "delta", 0), "weight"),
    "a negative weight": (change("weights", "delta", -5), "weight"),
    "a fraction for a weight": (change("weights", "delta", 1.5), "weight"),
    "a weight beyond all sums": (change("weights", "delta", 1 << 62), "weight"),
    "a control that is not counted once": (change("weights", "control", 5), "count once"),
    "no control": (put("arrays", ArrayRecord({"delta": Array(GOOD)})), "arrays"),
    "weights of other vectors": (put("weights", MetricRecord({"delta": 1})), "other vectors"),
    "a total missing": (put("totals", ConfigRecord({"clients": "1"})), "totals"),
    "a total that is no number": (change("totals", "words", "many"), "words"),
    "a negative count": (change("totals", "word_errors", "-1"), "word_errors"),
    "a total without end": (change("totals", "words", "9" * 5000), "words"),
    "a total as a number": (change("totals", "words", 4), "words"),
    "another number of clients": (change("totals", "clients", "2"), "2 clients for 1"),
    "a stranger failed": (change("failures", "clients", ["somebody"]), "not asked"),
    "a client failed twice": (
        put("failures", ConfigRecord({"clients": ["client_0000"] * 2, "reasons": ["", ""]})),
        "not asked",
    ),
    "failures without reasons": (change("failures", "reasons", []), "without"),
    "no failures": (remove("failures"), "no record failures"),
    "time that is no number": (change("timing", "busy", float("nan")), "times"),
    "negative time": (change("timing", "start", -1.0), "times"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_update_is_refused(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    forge, words = FORGERIES[name]
    message = reply()
    read(message)
    forge(message)
    with pytest.raises(Refused, match=words):
        read(message)
    assert not (tmp_path / "exploded").exists(), "something was unpickled"


def test_reasons_are_cut_and_made_readable() -> None:
    message = reply_message(order(), update(), {"client_0000": "red \x1b[31m\n" + "x" * 1000})
    [reason] = read(message).failures.values()
    assert reason.isprintable() and len(reason) == 300


def sent(weights: np.ndarray, control: np.ndarray = CONTROL) -> ArrayRecord:
    return ArrayRecord({"weights": Array(weights), "control": Array(control)})


ODD_ORDERS: dict[str, Callable[[Message], None]] = {
    "infinite weights": put("arrays", sent(np.array([1, np.inf], np.float32))),
    "double weights": put("arrays", sent(np.zeros(7))),
    "an infinite control": put("arrays", sent(WEIGHTS, np.array([1, np.nan], np.float32))),
    "a control of another length": put("arrays", sent(WEIGHTS, WEIGHTS)),
    "no control": put("arrays", ArrayRecord({"weights": Array(WEIGHTS)})),
    "no loss": change("config", "reference_loss", float("nan")),
    "no clients": change("config", "clients", 3),
    "no prior": change("config", "prior_wer", "18 %"),
    "a negative variance": change("config", "prior_variance", -0.1),
    "a negative rate": change("config", "lr", -1.0),
    "an infinite rate": change("config", "lr", float("inf")),
    "a run that leads out of its folder": change("config", "run", "../other"),
    "a run that is a number": change("config", "run", 7),
    "no round": change("config", "round", "one"),
    "no ticket": change("config", "ticket", 5),
    "no config": remove("config"),
}


@pytest.mark.parametrize("name", ODD_ORDERS)
def test_an_odd_order_is_refused(name: str) -> None:
    message = order()
    ODD_ORDERS[name](message)
    with pytest.raises(Refused):
        read_order(message, OTHERS)


ODD_REPORTS: dict[str, Callable[[Message], None]] = {
    "no list": change("clients", "ids", "a"),
    "other lengths": change("clients", "examples", [1, 2]),
    "a negative amount": change("clients", "train_seconds", [-1.0]),
    "an infinite amount": change("clients", "dev_seconds", [float("inf")]),
    "seconds beyond those of three utterances": change("clients", "train_seconds", [10_801.0]),
    "seconds whose sum is no float": change("clients", "train_seconds", [1.7e308]),
    "as many to measure on": change("clients", "dev_seconds", [1.7e308]),
    "an empty id": change("clients", "ids", [""]),
    "an id with a bell": change("clients", "ids", ["a\a"]),
    "an id of a decomposed letter": change("clients", "ids", ["a\u0301"]),
    "no name": change("node", "name", 1),
    "no setup": change("node", "setup", 1),
}


@pytest.mark.parametrize("name", ODD_REPORTS)
def test_an_odd_report_is_refused(name: str) -> None:
    query = query_message(4, SETUP)
    message = report_message(query, Report("clinic", True, SETUP.sha256, {"a": ClientSize(3, 12.5, 0.0)}))
    ODD_REPORTS[name](message)
    with pytest.raises(Refused):
        read_report(message)


def test_an_odd_setup_is_refused() -> None:
    for content in ({"config": "a"}, {"config": b"a", "tokenizer": b"b"}):
        query = query_message(4, SETUP)
        query.content["setup"] = ConfigRecord(content)  # type: ignore[arg-type]
        with pytest.raises(Refused, match="without config"):
            read_query(query)
    for base in ("5e", "5E" * 32, 7):
        query = query_message(4, SETUP)
        query.content["setup"]["base"] = base  # type: ignore[index]
        with pytest.raises(Refused, match="hash of the frozen base"):
            read_query(query)
    query = query_message(4, SETUP)
    query.content["setup"]["drawn"] = "codebook"  # type: ignore[index]
    with pytest.raises(Refused, match="no bytes"):
        read_query(query)
    with pytest.raises(Refused, match="bytes"):
        read_query(query_message(4, SharedConfig("a", bytes(LARGEST_SETUP))))


@pytest.mark.parametrize("record", [ConfigRecord({"a": "b"}), MetricRecord({"a": 1}), ArrayRecord()])
def test_records_that_do_not_belong_there_are_refused(record: ConfigRecord) -> None:
    message = reply()
    message.content["speech"] = record
    with pytest.raises(Refused, match="a record 'speech' that does not belong there"):
        read(message)
    report = report_message(query_message(3, SETUP), Report("clinic", True, "s", {"clinic": ClientSize(1, 1.0, 1.0)}))
    report.content["speech"] = record
    with pytest.raises(Refused, match="does not belong there"):
        read_report(report)


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\x1b[2J", "a\u202eb"])
def test_an_id_is_no_formula_and_no_command_of_a_terminal(name: str) -> None:
    report = report_message(query_message(3, SETUP), Report("clinic", True, "s", {name: ClientSize(1, 1.0, 1.0)}))
    with pytest.raises(Refused, match="a client id"):
        read_report(report)


def test_a_text_from_outside_is_cut_and_does_nothing() -> None:
    """A reason of 2 MB with ESC [2J was printed as it was."""
    text = told("\x1b[2J\u202e" + "x" * 2_000_000)
    assert len(text) == 300 and text.isprintable() and text.startswith(" [2J x")
