"""Who arrives and how much each does, by the fleet's clock: every figure here is worked out by hand."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from asr_fed.commands.measure import composed
from asr_fed.config.simulation import Late
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.tables import Device, Network
from asr_fed.simulation.timetable import Timetable, check_tau, plan_cohort
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import Terms
from tests.simulation.fleets import WORK, clock

NAMES = [f"client {number}" for number in range(12)]


def first(there: Sequence[str], size: int, draw: int) -> list[str]:
    return list(there)[:size]


def plan(of: Clock, *, wanted: int = 6, asked: int = 6, begin_s: float = 100.0, **works: Work) -> Timetable:
    return plan_cohort(of, 1, begin_s, works or dict.fromkeys(NAMES, WORK), wanted, asked, first)


def by_class(of: Clock, names: Sequence[str]) -> tuple[list[str], list[str]]:
    slow = [name for name in names if of.fleet.hardware(name).device.name == "slow"]
    return slow, [name for name in names if name not in slow]


def test_the_papers_model_on_a_gpu_takes_what_was_measured_there() -> None:
    """docs/gpu.md: 118.5 ms for a step of 8 clips of 5 s. What was assumed for a small model says 51 times as much."""

    def seconds(profile: str) -> float:
        simulation = composed("hparams/cv_fr.yaml", ["data.root=none", f"simulation={profile}"]).simulation
        assert simulation is not None
        h100 = Fleet((Device("H100", 1.0, 1.0),), Network((0.5,), (1e9,), (1e9,)), None, (0.0,), 7)
        steps = Work(steps=10, trained_s=10 * 8 * 5.0, decoded_s=0.0)
        return Clock(simulation, h100, 158_900_000, 0, 0).course("a", steps).compute_s / 10

    assert seconds("gpu_silos_crdnn") == pytest.approx(0.1185, rel=0.01)
    assert seconds("gpu_silos") == pytest.approx(6.0, rel=0.01)


def test_a_round_waits_for_its_slowest_client() -> None:
    waiting = clock()
    slow, fast = by_class(waiting, NAMES[:6])
    assert slow and fast, "the test needs both"
    table = plan(waiting)
    assert (table.round.begin_s, table.round.end_s, table.round.server_s) == (100, 100 + 47 + 3, 3)
    for each in table.clients:
        assert (each.download_s, each.upload_s, each.arrived, each.share_of_work) == (1, 2, True, 1)
        assert (each.compute_s, each.idle_s) == ((44, 0) if each.client in slow else (11, 33))
        assert (each.bytes_down, each.bytes_up) == (1_000_000, 2_000_000)
    assert all(terms == Terms() for terms in table.terms.values())


def test_whoever_needs_longer_than_tau_is_dropped_and_what_it_did_is_lost() -> None:
    dropping = clock(late=Late.drop, tau=20.0)
    slow, fast = by_class(dropping, NAMES[:6])
    table = plan(dropping)
    assert sorted(table.terms) == sorted(fast)
    assert table.round.end_s == 100 + 20 + 3, "the server does not know that nobody else will come"
    assert (table.round.asked, table.round.arrived) == (6, len(fast))
    lost = [each for each in table.clients if each.client in slow]
    assert all((e.download_s, e.compute_s, e.upload_s, e.bytes_up) == (1, 19, 0, 0) for e in lost)
    assert all(not e.arrived and e.share_of_work == pytest.approx(19 / 44) for e in lost)


def test_partial_work_fits_into_tau_and_counts_by_what_it_is() -> None:
    partial = clock(late=Late.partial, tau=33.0)
    slow, fast = by_class(partial, NAMES[:6])
    table = plan(partial)
    # A slow device has 33 - 3 - 4 (decoding) = 26 s for steps of 4 + 6 = 10 s each.
    assert {name: terms for name, terms in table.terms.items() if name in slow} == dict.fromkeys(slow, Terms(2, 0.5))
    assert all(table.terms[name] == Terms() for name in fast)
    assert [each.compute_s for each in table.clients if each.client in slow] == [24.0] * len(slow)
    assert all(each.arrived for each in table.clients)
    assert table.round.end_s == 100 + 27 + 3


def test_who_has_no_time_for_a_step_is_dropped_from_partial_work_too() -> None:
    table = plan(clock(late=Late.partial, tau=16.0))
    assert 0 < table.round.arrived < 6


def test_of_too_many_asked_the_first_count() -> None:
    many = clock()
    _, fast = by_class(many, NAMES)
    assert len(fast) >= 4
    table = plan(many, wanted=4, asked=12)
    assert sorted(table.terms) == sorted(fast)[:4]
    assert table.round.end_s == 100 + 14 + 3
    late = [each for each in table.clients if not each.arrived]
    assert len(late) == 8 and {each.busy_s for each in late} == {14.0}


def test_where_nobody_arrives_others_are_asked() -> None:
    dropping = clock(late=Late.drop, tau=20.0)
    slow, fast = by_class(dropping, NAMES)

    def unlucky(there: Sequence[str], size: int, draw: int) -> list[str]:
        return slow[:2] if draw < 2 else fast[:2]

    table = plan_cohort(dropping, 1, 0.0, dict.fromkeys(NAMES, WORK), 2, 2, unlucky)
    assert sorted(table.terms) == sorted(fast[:2])
    assert [each.start_s for each in table.clients] == [0, 0, 20, 20, 40, 40]
    assert table.round.end_s == 40 + 14 + 3

    def hopeless(there: Sequence[str], size: int, draw: int) -> list[str]:
        return slow[:2]

    with pytest.raises(UserError, match="of 100 cohorts nobody answers within simulation.tau=20"):
        plan_cohort(dropping, 1, 0.0, dict.fromkeys(NAMES, WORK), 2, 2, hopeless)


def test_a_tau_below_every_clients_time_is_refused_with_the_fastest() -> None:
    works = dict.fromkeys(NAMES, WORK)
    check_tau(clock(late=Late.drop, tau=14.0), works)
    with pytest.raises(UserError, match=r"tau=13.9 s .* on fast, needs 14.0 s \(download 1.0, training 11.0"):
        check_tau(clock(late=Late.drop, tau=13.9), works)
    check_tau(clock(late=Late.partial, tau=13.9), works)  # a step less
    with pytest.raises(UserError, match="simulation.tau"):
        check_tau(clock(late=Late.partial, tau=6.0), works)


def test_whoever_is_away_is_not_asked_and_the_clock_waits_where_nobody_is_there() -> None:
    nobody_before_five = [0.0] * 5 + [0.5] * 19
    away = clock(by_hour=nobody_before_five)
    table = plan(away, asked=12, wanted=12, begin_s=0.0)
    assert {each.start_s for each in table.clients} == {5 * 3600.0}
    asked = {each.client for each in table.clients}
    assert asked == {name for name in NAMES if away.fleet.is_there(name, 5 * 3600.0)} and 0 < len(asked) < 12
    assert table.round.begin_s == 0


def test_in_the_long_run_as_many_are_there_as_the_curve_says() -> None:
    fleet = clock(by_hour=[0.1] * 12 + [0.4] * 12, zones=[0.0, 12.0]).fleet
    names = [f"c{number}" for number in range(400)]
    at = [sum(fleet.is_there(name, 3600.0 * hour) for name in names) / 400 for hour in range(48)]
    assert all(share == pytest.approx(0.25, abs=0.08) for share in at)  # half of them live on the other side
    here = [name for name in names if fleet.hardware(name).zone == 0]
    stay = [sum(fleet.is_there(name, 3600.0 * hour) for name in here) for hour in range(12)]
    assert len(set(stay)) == 1, "who is there stays while the curve does"


def test_hardware_is_dealt_by_share_and_does_not_depend_on_who_else_is_there() -> None:
    fleet, again = clock().fleet, clock().fleet
    names = [f"c{number}" for number in range(1000)]
    dealt = [fleet.hardware(name) for name in names]
    assert sum(each.device.name == "slow" for each in dealt) == pytest.approx(500, abs=50)
    assert [again.hardware(name) for name in reversed(names)] == list(reversed(dealt))


def test_more_work_a_larger_model_and_a_slower_network_never_take_less_time() -> None:
    times = [clock().course("anna", Work(steps, 1.5 * steps, 2.0)).total_s for steps in range(1, 9)]
    assert all(before < after for before, after in pairwise(times))
    small = clock()
    large = Clock(small.settings, small.fleet, 2000, small.bytes_down, small.bytes_up)
    assert large.course("anna", WORK).compute_s == 2 * small.course("anna", WORK).compute_s
    for seconds in range(60):
        course = small.within("anna", WORK, float(seconds))
        assert course is None or (course.total_s <= seconds and course.share == pytest.approx((course.steps or 4) / 4))
