"""How long a client's round takes on its own device and network, and what it can do in less time than that."""

import math
from dataclasses import dataclass

from asr_fed.config.simulation import Late, SimulationConfig
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.record import ClientTime


@dataclass(frozen=True)
class Work:
    """A client's whole round: optimizer steps, and seconds of audio that it trains on and that it decodes.

    before_steps, before_s: passes over batches, and their audio, before the first optimizer step. They cost what steps
        cost, and are made however many of these follow.
    """

    steps: int
    trained_s: float
    decoded_s: float
    before_steps: int = 0
    before_s: float = 0.0


@dataclass(frozen=True)
class Course:
    """A client's round in seconds, before anybody loses patience.

    steps: that it makes; None for all of its work.
    share: of its steps.
    """

    client: str
    device: str
    download_s: float
    compute_s: float
    upload_s: float
    steps: int | None = None
    share: float = 1.0

    @property
    def total_s(self) -> float:
        return self.download_s + self.compute_s + self.upload_s


@dataclass(frozen=True)
class Clock:
    """Seconds of a fleet, of a model of `parameters` parameters whose orders and answers have so many bytes."""

    settings: SimulationConfig
    fleet: Fleet
    parameters: int
    bytes_down: int
    bytes_up: int

    @property
    def size(self) -> float:
        """The model's number of parameters over the reference's."""
        return self.parameters / self.settings.reference.parameters

    def course(self, client: str, work: Work) -> Course:
        """A client's whole round:  download + slowdown * size * (steps * a + trained * b + decoded * c) + upload.

        a, b and c are the reference's seconds of a step, of training on a second of audio and of decoding one. Steps
        and audio before the first step are among them.
        """
        has, latency = self.fleet.hardware(client), self.settings.latency
        step, other = self._compute(client, work)
        return Course(
            client,
            has.device.name,
            latency + self.bytes_down / has.down,
            work.steps * step + other,
            latency + self.bytes_up / has.up,
        )

    def within(self, client: str, work: Work, seconds: float) -> Course | None:
        """As many steps as leave it time to answer within `seconds`; None where that is not even one."""
        whole = self.course(client, work)
        if whole.total_s <= seconds:
            return whole
        step, other = self._compute(client, work)
        steps = min(work.steps, math.floor((seconds - whole.download_s - whole.upload_s - other) / step))
        if steps < 1:
            return None
        compute = steps * step + other
        return Course(
            client, whole.device, whole.download_s, compute, whole.upload_s, steps, steps / max(1, work.steps)
        )

    def in_time(self, client: str, work: Work) -> Course | None:
        """The course that a client is asked for under the config's rule of who is late; None where it is dropped."""
        rule, tau = self.settings.late, self.settings.tau
        whole = self.course(client, work)
        if rule is Late.wait or tau is None or whole.total_s <= tau:
            return whole
        return self.within(client, work, tau) if rule is Late.partial else None

    def _compute(self, client: str, work: Work) -> tuple[float, float]:
        """Seconds of one step; and of what comes before the first one, and of measuring the WER."""
        reference = self.settings.reference
        slower = self.fleet.hardware(client).device.slowdown * self.size
        audio = work.trained_s / max(1, work.steps)
        step = slower * (reference.step_seconds + audio * reference.train_seconds)
        before = slower * (work.before_steps * reference.step_seconds + work.before_s * reference.train_seconds)
        return step, before + slower * work.decoded_s * reference.decode_seconds


def answered(
    course: Course, clock: Clock, server_round: int, start_s: float, close_s: float, staleness: int = 0
) -> ClientTime:
    """The record of a client whose update counts; the round closes at `close_s`."""
    return ClientTime(
        server_round,
        course.client,
        course.device,
        course.download_s,
        course.compute_s,
        course.upload_s,
        max(0.0, close_s - start_s - course.total_s),
        clock.bytes_down,
        clock.bytes_up,
        True,
        course.share,
        start_s,
        staleness,
    )


def given_up(course: Course, clock: Clock, server_round: int, start_s: float, close_s: float) -> ClientTime:
    """The record of a client that had not answered when the round closed: what it did until then counts for nothing."""
    left = close_s - start_s
    download = min(course.download_s, left)
    compute = min(course.compute_s, left - download)
    upload = min(course.upload_s, left - download - compute)
    return ClientTime(
        server_round,
        course.client,
        course.device,
        download,
        compute,
        upload,
        0.0,
        round(clock.bytes_down * _part(download, course.download_s)),
        round(clock.bytes_up * _part(upload, course.upload_s)),
        False,
        course.share * _part(compute, course.compute_s),
        start_s,
    )


def _part(done: float, whole: float) -> float:
    return done / whole if whole > 0 else 1.0
