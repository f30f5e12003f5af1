"""A round by the fleet's clock, decided before anybody is asked: who is asked, who arrives, how much each does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asr_fed.simulation.clock import Clock, Course, Work, answered, given_up
from asr_fed.simulation.fleet import DAY
from asr_fed.simulation.record import ClientTime, RoundTime
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import Terms

LOOK = 600.0  # seconds of the fleet's clock between two looks for clients where nobody is there
DRAWS = 100  # cohorts of which nobody arrives

# Clients to ask, of those who are there: how many, and the number of this attempt.
Choose = Callable[[Sequence[str], int, int], list[str]]


@dataclass(frozen=True)
class Timetable:
    """A round before it begins.

    clients: all who are asked, with those of cohorts of which nobody arrived; sorted by name in each cohort.
    round: its own times.
    terms: of the clients that arrive.
    versions: in the asynchronous mode, by client, after how many server steps it was sent its weights.
    in_flight: of clients that are still at work when the round ends, the same.
    """

    clients: tuple[ClientTime, ...]
    round: RoundTime
    terms: Mapping[str, Terms] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    in_flight: frozenset[int] = frozenset()

    @property
    def staleness(self) -> float | None:
        """The mean age of the updates, in server steps; None where rounds wait for their cohort."""
        ages = [each.staleness for each in self.clients if each.arrived]
        return sum(ages) / len(ages) if self.versions else None

    def by_version(self) -> dict[int, list[str]]:
        """Clients that arrive, sorted, by the version of the weights that they are sent."""
        groups: dict[int, list[str]] = {}
        for client in sorted(self.terms):
            groups.setdefault(self.versions.get(client, self.round.round - 1), []).append(client)
        return dict(sorted(groups.items()))


def plan_cohort(
    clock: Clock,
    server_round: int,
    begin_s: float,
    works: Mapping[str, Work],
    wanted: int,
    asked: int,
    choose: Choose,
) -> Timetable:
    """A round that asks `asked` of the clients in `works`, and closes with the first `wanted` answers.

    It also closes after tau, where late clients are dropped or do partial work. Where nobody arrives, or nobody is
    there, the clock goes on and others are asked.

    Raises UserError where nobody ever arrives.
    """
    records: list[ClientTime] = []
    at = begin_s
    for draw in range(DRAWS):
        there = clock.fleet.those_there(works, at)
        waited = 0.0
        while not there and waited < DAY:
            waited += LOOK
            there = clock.fleet.those_there(works, at + waited)
        at += waited
        cohort = choose(there, min(asked, len(there)), draw)
        courses = {client: clock.in_time(client, works[client]) for client in cohort}
        on_time = sorted((course.total_s, name) for name, course in courses.items() if course is not None)[:wanted]
        first = {name for _, name in on_time}
        everybody = len(on_time) == len(cohort)
        full = len(on_time) == wanted
        tau = clock.settings.tau
        last = on_time[-1][0] if on_time else 0.0
        close = at + (last if everybody or full or tau is None else tau)
        arrived: dict[str, Course] = {}
        for name in sorted(cohort):
            course = courses[name]
            if course is not None and name in first:
                arrived[name] = course
                records.append(answered(course, clock, server_round, at, close))
            else:
                whole = course or clock.course(name, works[name])
                records.append(given_up(whole, clock, server_round, at, close))
        if arrived:
            end = close + clock.settings.server_seconds
            times = RoundTime(server_round, begin_s, end, clock.settings.server_seconds, len(records), len(arrived))
            terms = {name: Terms(course.steps, course.share) for name, course in arrived.items()}
            return Timetable(tuple(records), times, terms)
        at = close
    raise UserError(
        f"Round {server_round}: of {DRAWS} cohorts nobody answers within simulation.tau={clock.settings.tau} s. "
        "Raise it, or set simulation.late=partial."
    )


def check_tau(clock: Clock, works: Mapping[str, Work]) -> None:
    """Raises UserError where nobody can answer within tau, naming the fastest client."""
    tau = clock.settings.tau
    if tau is None or not works or any(clock.in_time(client, work) is not None for client, work in works.items()):
        return
    fastest = min((clock.course(client, work) for client, work in works.items()), key=lambda course: course.total_s)
    raise UserError(
        f"simulation.tau={tau:g} s is below every client's time: the fastest, {fastest.client} on {fastest.device}, "
        f"needs {fastest.total_s:.1f} s (download {fastest.download_s:.1f}, training {fastest.compute_s:.1f}, upload "
        f"{fastest.upload_s:.1f}). Raise it."
    )
