"""What a node was asked and has sent cannot be changed unseen."""

from pathlib import Path

import pytest

from asr_fed.engines.deployment.journal import JOURNAL, START, Journal
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
    assert len(journal.since("sent", 60.0)) == 4 and journal.since("sent", -60.0) == []


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
