"""What the clock says of a run: every number here is counted by hand."""

import pytest

from asr_fed.simulation.heard import summarise_fleet, who_is_heard
from asr_fed.simulation.record import ClientTime, RoundTime

FAST, SLOW, LATE = (
    ClientTime(1, "a", "fast", 1.0, 10.0, 1.0, 36.0, 10**9, 2 * 10**9, True, 1.0),
    ClientTime(1, "b", "slow", 2.0, 44.0, 2.0, 0.0, 10**9, 2 * 10**9, True, 0.5),
    ClientTime(1, "c", "slow", 2.0, 46.0, 0.0, 0.0, 10**9, 0, False, 0.9),
)
AGAIN = ClientTime(2, "a", "fast", 1.0, 10.0, 1.0, 0.0, 10**9, 2 * 10**9, True, 1.0, 50.0, 1)
TIMES = [FAST, SLOW, LATE, AGAIN]
ROUNDS = [RoundTime(1, 0.0, 1800.0, 2.0, 3, 2), RoundTime(2, 1800.0, 7200.0, 3.0, 1, 1)]


def test_hours_shares_and_bytes() -> None:
    found = summarise_fleet(TIMES, ROUNDS)
    assert (found["hours"], found["server_hours"]) == (2.0, pytest.approx(5 / 3600))
    assert (found["asked"], found["arrived"], found["dropped"]) == (4, 3, 0.25)
    assert found["stragglers"] == 0.5  # b did part of its work, c came too late
    assert found["partial"] == pytest.approx(1 / 3)
    assert found["lost_compute"] == pytest.approx(46 / 110)
    assert found["waiting"] == pytest.approx(36 / (12 + 48 + 12 + 36))
    assert found["staleness"] == pytest.approx(1 / 3)
    assert (found["gb_down"], found["gb_up"]) == (4.0, 6.0)
    assert summarise_fleet([], [])["hours"] == summarise_fleet([], [])["stragglers"] == 0


def test_stragglers_need_over_twice_the_median_time_also_where_all_are_waited_for() -> None:
    seconds = (10.0, 10.0, 10.0, 20.0, 20.5)
    times = [ClientTime(1, f"c{s}", "d", 1.0, s - 2, 1.0, 0.0, 1, 1, True, 1.0) for s in seconds]
    found = summarise_fleet(times, [RoundTime(1, 0.0, 20.5, 1.0, 5, 5)])
    assert (found["stragglers"], found["dropped"]) == (0.2, 0)


def test_who_is_heard_counts_work_that_arrived() -> None:
    groups = {"a": "fast", "b": "slow", "c": "slow", "d": "slow"}
    fast, slow = who_is_heard("device", groups, TIMES, {"fast": 12.5})
    assert (fast.clients, fast.asked, fast.arrived, fast.wer) == (1, 2, 2, 12.5)
    assert fast.counted == pytest.approx(2 / 2.5) and fast.fair == 0.25
    assert (slow.clients, slow.asked, slow.arrived, slow.wer) == (3, 2, 1, None)
    assert slow.counted == pytest.approx(0.5 / 2.5) and slow.fair == 0.75
