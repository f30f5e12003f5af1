"""The asynchronous mode by the fleet's clock: when whom, of `asr_fed.aggregation.buffer`.

Nothing of this depends on what clients learn: the whole course of a run is known before its first order, and a run that
is resumed draws it again.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from asr_fed.aggregation.buffer import Buffer
from asr_fed.simulation.clock import Clock, Course, Work, answered, given_up
from asr_fed.simulation.fleet import DAY
from asr_fed.simulation.record import ClientTime, RoundTime
from asr_fed.simulation.timetable import LOOK, Timetable
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import Terms

LOST = 10_000  # clients that are dropped one after another before the run is given up


@dataclass(order=True)
class _Running:
    """A client at work; it `answers`, or will be given up, at `ends_s`."""

    ends_s: float
    client: str
    start_s: float = field(compare=False)
    course: Course = field(compare=False)
    answers: bool = field(compare=False)


@dataclass
class _Fleet:
    """All that is under way; `names` are sorted."""

    clock: Clock
    works: Mapping[str, Work]
    buffer: Buffer
    names: list[str]
    running: list[_Running] = field(default_factory=list)

    def ask(self, at: float) -> None:
        """Have as many at work as are wanted, of those who are there."""
        while (client := self.buffer.ask(self.names, lambda name: self.clock.fleet.is_there(name, at))) is not None:
            work = self.works[client]
            course = self.clock.in_time(client, work)
            patience = self.clock.settings.tau or 0.0
            ends = at + (patience if course is None else course.total_s)
            whole = course or self.clock.course(client, work)
            heapq.heappush(self.running, _Running(ends, client, at, whole, course is not None))


def plan_buffers(clock: Clock, works: Mapping[str, Work], at_once: int, buffer: int, seed: int) -> Iterator[Timetable]:
    """Server steps 1, 2, ..., each with the updates in its buffer.

    A client is at most once in a buffer: one that has answered is asked again after the step. Raises UserError where
    nobody is there for a day, or nobody ever answers in time.
    """
    places = Buffer(buffer, at_once, seed)
    state = _Fleet(clock, works, places, sorted(works))
    records: list[ClientTime] = []
    come: list[_Running] = []
    begin = now = free_from = 0.0  # the server is at its own work until `free_from`
    lost = 0
    state.ask(now)
    while True:
        if not state.running:
            now = _wait(state, max(now, free_from))
        ended = heapq.heappop(state.running)
        now, step = max(now, ended.ends_s), places.version + 1
        if not ended.answers:
            lost += 1
            if lost > LOST:
                raise UserError(f"{LOST} clients in a row did not answer within simulation.tau={clock.settings.tau} s.")
            places.lose(ended.client)
            records.append(given_up(ended.course, clock, step, ended.start_s, ended.ends_s))
        else:
            lost = 0
            places.add(ended.client)
            come.append(ended)
        if places.is_full:
            close = max(now, free_from)
            versions = dict(places.come)
            terms = {each.client: Terms(each.course.steps, each.course.share) for each in come}
            ages = places.step()
            records += [answered(each.course, clock, step, each.start_s, close, ages[each.client]) for each in come]
            end = free_from = close + clock.settings.server_seconds
            times = RoundTime(step, begin, end, clock.settings.server_seconds, len(records), buffer)
            yield Timetable(tuple(records), times, terms, versions, frozenset(places.working.values()))
            records, come, begin = [], [], end
        state.ask(max(now, free_from))


def _wait(state: _Fleet, now: float) -> float:
    """The time at which somebody is at work again."""
    waited = 0.0
    while not state.running:
        if waited > DAY:
            raise UserError("Nobody can be asked for a day of the fleet's clock: see simulation.availability.")
        waited += LOOK
        state.ask(now + waited)
    return now + waited
