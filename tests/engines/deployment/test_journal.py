"""What a node was asked and has sent cannot be changed unseen."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asr_fed.engines.deployment.journal import DAY, JOURNAL, START, Journal
from asr_fed.system.errors import UserError


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "state" / JOURNAL)
    made.add("preparing", setup="a")
    for number in range(3):
        made.add("sent", setup="a", round=number, seconds=2.0)
    made.add("sent", setup="b", round=0, seconds=1.0)
    return made


def test_events_are_counted(journal: Journal) -> None:
    entries = journal.entries()
    assert [entry["event"] for entry in entries] == ["preparing", *["sent"] * 4]
    assert entries[0]["previous"] == START and len({entry["previous"] for entry in entries}) == 5
    assert (journal.rounds("a"), journal.rounds("b"), journal.rounds("c")) == (3, 1, 0)
    assert len(journal.today("sent")) == 4 and len(journal.today("preparing")) == 1


def test_what_is_longer_ago_than_a_day_is_no_longer_of_today(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    assert len(journal.today("sent")) == 4
    monkeypatch.setattr(time, "time", lambda: now + DAY + 60)
    journal.add("sent", setup="a", round=3, seconds=4.0)
    assert [entry["round"] for entry in journal.today("sent")] == [3] and journal.rounds("a") == 4
    assert Journal(journal.path).today("sent") == journal.today("sent")


def test_an_order_reads_what_is_new_and_not_the_years_before(journal: Journal) -> None:
    assert journal.rounds("a") == 3
    old = journal.path.stat().st_size
    journal.add("sent", setup="a", round=3, seconds=2.0)
    new = journal.path.read_bytes()[old:]
    journal.path.write_bytes(b"x" * (old - 1) + b"\n" + new)
    assert (journal.rounds("a"), len(journal.today("sent"))) == (4, 5)
    with pytest.raises(UserError, match="line 2: the chain is broken"):
        journal.entries()


def test_a_change_in_a_line_that_was_read_is_seen_at_the_next_one(journal: Journal) -> None:
    assert journal.rounds("a") == 3
    journal.path.write_text(journal.path.read_text().replace('"seconds": 1.0', '"seconds": 0.1'))
    journal.add("sent", setup="a", round=3, seconds=2.0)
    with pytest.raises(UserError, match="line 6: the chain is broken"):
        journal.rounds("a")


def test_a_journal_that_was_put_away_is_begun_again(journal: Journal) -> None:
    assert journal.rounds("a") == 3
    journal.path.rename(journal.path.with_suffix(".2026"))
    assert journal.rounds("a") == 0
    journal.add("sent", setup="a", round=3, seconds=2.0)
    assert journal.rounds("a") == 1


def test_a_node_and_its_owners_approval_may_write_at_the_same_time(journal: Journal) -> None:
    def write(number: int) -> None:
        own = Journal(journal.path)
        for _ in range(50):
            own.add("approved", setup=str(number))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    assert len(journal.entries()) == 5 + 4 * 50


@pytest.mark.parametrize("change", ["changed", "removed", "inserted", "swapped"])
def test_a_change_is_seen(journal: Journal, change: str) -> None:
    lines = journal.path.read_text().splitlines()
    match change:
        case "changed":
            lines[1] = lines[1].replace("2.0", "1.0")
        case "removed":
            del lines[1]
        case "inserted":
            lines.insert(1, lines[1])
        case _:
            lines[1], lines[2] = lines[2], lines[1]
    journal.path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError, match="the chain is broken"):
        journal.entries()


def test_a_line_that_was_cut_short_with_the_power_does_not_end_the_node(journal: Journal) -> None:
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-30])
    journal.add("sent", setup="a", round=9, seconds=1.0)
    assert [entry["event"] for entry in journal.entries()][-2:] == ["unreadable", "sent"]


def test_a_line_that_was_cut_short_is_read_once(journal: Journal) -> None:
    journal.path.write_bytes(journal.path.read_bytes()[:-30])
    assert (journal.rounds("a"), journal.rounds("b")) == (3, 0)
    journal.add("sent", setup="b", round=9, seconds=1.0)
    assert (journal.rounds("a"), journal.rounds("b")) == (3, 1)
