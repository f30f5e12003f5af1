"""The asynchronous mode by the fleet's clock: FedBuff, arXiv 2106.06639 (algorithm 1).

So many clients work at any time. Whoever has answered is followed at once by another one, who is sent the newest
weights; the server makes a step whenever `buffer` updates have come. An update is s server steps old when it is added,
if so many were made since its client was sent its weights; it is multiplied by 1 / sqrt(1 + s) as in the paper, and the
step is the weighted mean over the buffer of deltas so damped.

Nothing of this depends on what clients learn: the whole course of a run is known before its first order, and a run that
is resumed draws it again.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asr_fed.simulation.clock import Clock, Course, Work, answered, given_up
from asr_fed.simulation.fleet import DAY
from asr_fed.simulation.record import ClientTime, RoundTime
from asr_fed.simulation.timetable import LOOK, Timetable
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import generator
from asr_fed.wire.messages import Terms

GUESSES = 16  # clients that are drawn before all are shuffled
LOST = 10_000  # clients that are dropped one after another before the run is given up


def damping(staleness: int) -> float:
    """s(staleness) of arXiv 2106.06639, section 5: 1 / sqrt(1 + staleness)."""
    return float((1 + staleness) ** -0.5)


@dataclass(order=True)
class _Running:
    """A client at work; `course` is None in time where it will be given up at `ends_s`."""

    ends_s: float
    client: str
    start_s: float = field(compare=False)
    version: int = field(compare=False)
    course: Course = field(compare=False)
    answers: bool = field(compare=False)


@dataclass
class _Federation:
    """All that is under way: who works, what has come since the last step, and how many places are free."""

    clock: Clock
    works: Mapping[str, Work]
    seed: int
    buffer: int
    names: list[str]
    free: int
    running: list[_Running] = field(default_factory=list)
    come: list[_Running] = field(default_factory=list)
    version: int = 0
    asked: int = 0

    def ask(self, at: float) -> None:
        """Fill the free places with clients that are there, neither at work nor in the buffer."""
        busy = {each.client for each in (*self.running, *self.come)}
        while self.free and len(busy) < len(self.names):
            drawn = shuffled(self.names, generator(self.seed, "asynchronous", self.asked))
            client = next((name for name in drawn if name not in busy and self.clock.fleet.is_there(name, at)), None)
            if client is None:
                return
            work = self.works[client]
            course = self.clock.in_time(client, work)
            patience = self.clock.settings.tau or 0.0
            ends = at + (patience if course is None else course.total_s)
            whole = course or self.clock.course(client, work)
            heapq.heappush(self.running, _Running(ends, client, at, self.version, whole, course is not None))
            busy.add(client)
            self.free -= 1
            self.asked += 1


def shuffled(names: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """All names in random order, some of them twice: the first ones cost the same however many there are."""
    for place in rng.integers(len(names), size=GUESSES):
        yield names[place]
    for place in rng.permutation(len(names)):
        yield names[place]


def plan_buffers(clock: Clock, works: Mapping[str, Work], at_once: int, buffer: int, seed: int) -> Iterator[Timetable]:
    """Server steps 1, 2, ..., each with the updates in its buffer.

    A client is at most once in a buffer: one that has answered is asked again after the step. Raises UserError where
    nobody is there for a day, or nobody ever answers in time.
    """
    state = _Federation(clock, works, seed, buffer, sorted(works), at_once)
    records: list[ClientTime] = []
    begin = now = free_from = 0.0  # the server is at its own work until `free_from`
    lost = 0
    state.ask(now)
    while True:
        if not state.running:
            now = _wait(state, max(now, free_from))
        ended = heapq.heappop(state.running)
        now, step = max(now, ended.ends_s), state.version + 1
        state.free += 1
        if not ended.answers:
            lost += 1
            if lost > LOST:
                raise UserError(f"{LOST} clients in a row did not answer within simulation.tau={clock.settings.tau} s.")
            records.append(given_up(ended.course, clock, step, ended.start_s, ended.ends_s))
        else:
            lost = 0
            state.come.append(ended)
        if len(state.come) == buffer:
            close = max(now, free_from)
            versions = {each.client: each.version for each in state.come}
            terms = {
                each.client: Terms(each.course.steps, each.course.share, damping(state.version - each.version))
                for each in state.come
            }
            records += [
                answered(each.course, clock, step, each.start_s, close, state.version - each.version)
                for each in state.come
            ]
            end = free_from = close + clock.settings.server_seconds
            times = RoundTime(step, begin, end, clock.settings.server_seconds, len(records), buffer)
            in_flight = frozenset(each.version for each in state.running)
            yield Timetable(tuple(records), times, terms, versions, in_flight)
            records, state.come, begin = [], [], end
            state.version = step
        state.ask(max(now, free_from))


def _wait(state: _Federation, now: float) -> float:
    """The time at which somebody is at work again."""
    waited = 0.0
    while not state.running:
        if waited > DAY:
            raise UserError("Nobody can be asked for a day of the fleet's clock: see simulation.availability.")
        waited += LOOK
        state.ask(now + waited)
    return now + waited
