"""FedBuff by the fleet's clock: who is asked when, how old updates are, and that its course is known beforehand."""

from itertools import islice, pairwise

import pytest

from asr_fed.config.simulation import Late
from asr_fed.simulation.buffered import plan_buffers
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.timetable import Timetable
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import WHOLE
from tests.simulation.fleets import WORK, clock

NAMES = [f"client {number}" for number in range(12)]


def steps(of: Clock, count: int, *, at_once: int = 6, buffer: int = 3, names: list[str] = NAMES) -> list[Timetable]:
    works: dict[str, Work] = dict.fromkeys(names, WORK)
    return list(islice(plan_buffers(of, works, at_once, buffer, seed=7), count))


def test_a_step_is_made_with_every_third_update_and_the_clock_never_goes_back() -> None:
    tables = steps(clock(), 8)
    for number, table in enumerate(tables, 1):
        assert table.round.round == number and table.round.arrived == len(table.terms) == 3
        assert all(each.arrived for each in table.clients)
        assert table.round.end_s - table.round.begin_s >= 3
    assert all(before.round.end_s == after.round.begin_s for before, after in pairwise(tables))


def test_nobody_waits_for_the_slow_and_their_updates_are_older() -> None:
    tables = steps(clock(), 12)
    rows = [each for table in tables for each in table.clients]
    by_device = {name: [each.staleness for each in rows if each.device == name] for name in ("slow", "fast")}
    assert len(by_device["fast"]) > 2 * len(by_device["slow"]) > 0
    assert sum(by_device["slow"]) / len(by_device["slow"]) > sum(by_device["fast"]) / len(by_device["fast"])
    for number, table in enumerate(tables):
        for client, terms in table.terms.items():
            age = number - table.versions[client]
            assert age >= 0 and terms == WHOLE
    assert {each.staleness for each in tables[0].clients} == {0}
    assert tables[5].staleness == sum(each.staleness for each in tables[5].clients) / 3


def test_as_many_are_at_work_as_are_wanted_and_nobody_twice() -> None:
    rows = [each for table in steps(clock(server_seconds=0.0), 15) for each in table.clients]
    for each in rows:
        at_work = [other for other in rows if other.start_s <= each.start_s < other.start_s + other.busy_s]
        assert len(at_work) <= 6
        assert len({other.client for other in at_work}) == len(at_work)
    names = {table.round.round: [each.client for each in table.clients] for table in steps(clock(), 15)}
    assert all(len(set(own)) == len(own) for own in names.values())


def test_weights_that_somebody_works_on_are_kept_until_they_come() -> None:
    tables = steps(clock(), 12)
    for before, after in pairwise(tables):
        older = {version for version in after.versions.values() if version < before.round.round}
        assert older <= before.in_flight


def test_fewer_at_work_than_a_buffer_holds() -> None:
    assert [table.round.arrived for table in steps(clock(), 3, at_once=2, buffer=5)] == [5, 5, 5]


def test_a_buffer_of_everybody_waits_for_everybody() -> None:
    few = NAMES[:4]
    for table in steps(clock(), 3, at_once=4, buffer=4, names=few):
        assert sorted(table.terms) == few and {each.staleness for each in table.clients} == {0}


def test_who_is_too_slow_is_given_up_and_followed_by_another() -> None:
    dropping = clock(late=Late.drop, tau=20.0)
    tables = steps(dropping, 10)
    rows = [each for table in tables for each in table.clients]
    assert {each.device for each in rows if each.arrived} == {"fast"}
    lost = [each for each in rows if not each.arrived]
    assert lost and all(each.device == "slow" and each.busy_s == pytest.approx(20) for each in lost)
    assert all(table.round.asked == len(table.clients) for table in tables)
    partial = [e for t in steps(clock(late=Late.partial, tau=33.0), 10) for e in t.clients]
    assert {(each.device, each.share_of_work) for each in partial} == {("fast", 1.0), ("slow", 0.5)}


def test_nobody_answers_in_time() -> None:
    slow = [name for name in NAMES if clock().fleet.hardware(name).device.name == "slow"]
    with pytest.raises(UserError, match="in a row did not answer within simulation.tau=20"):
        steps(clock(late=Late.drop, tau=20.0), 1, names=slow)


def test_the_clock_waits_for_those_who_are_away() -> None:
    tables = steps(clock(by_hour=[0.0] * 5 + [0.9] * 19), 2)
    assert min(each.start_s for each in tables[0].clients) == 5 * 3600.0


def test_the_course_of_a_run_is_the_same_each_time() -> None:
    assert steps(clock(), 6) == steps(clock(), 6)
