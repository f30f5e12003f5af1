"""What a client keeps: as of its round, through kills and other workers."""

from pathlib import Path

import numpy as np

from asr_fed.federation.client_store import GENERATIONS, ClientStore


def vector(value: float) -> dict[str, np.ndarray]:
    return {"control": np.full(3, value, np.float32)}


def test_a_round_reads_what_earlier_rounds_left(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    assert store.read("anne", before=1) == {}
    store.write("anne", 2, vector(2))
    store.write("anne", 5, vector(5))
    assert store.read("anne", before=2) == {}
    for before, expected in ((3, 2), (5, 2), (6, 5), (99, 5)):
        np.testing.assert_array_equal(store.read("anne", before)["control"], vector(expected)["control"])
    assert store.read("bob", before=99) == {}


def test_a_repeated_round_begins_where_it_began_the_first_time(tmp_path: Path) -> None:
    """A server that is killed in round 3 goes on from the checkpoint of round 2, and asks for round 3 again."""
    store = ClientStore(tmp_path)
    for number in (1, 2, 3):
        store.write("anne", number, vector(number))
    again = ClientStore(tmp_path)  # another worker
    np.testing.assert_array_equal(again.read("anne", before=3)["control"], vector(2)["control"])
    again.write("anne", 3, vector(30))
    np.testing.assert_array_equal(store.read("anne", before=4)["control"], vector(30)["control"])


def test_old_rounds_are_thrown_away_and_names_need_not_be_file_names(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    for number in range(1, 10):
        store.write("../../née/\0 ", number, vector(number))
    assert len(list(tmp_path.rglob("*.pt"))) == GENERATIONS
    assert all(tmp_path in path.parents for path in tmp_path.rglob("*"))
