"""The model: energy is an amount of work times constants, emissions are energy times the intensity of electricity.

Sources: arXiv 2102.07627 and 2010.06537 (powers, times, routers, PUE of the data centre alone), arXiv 2303.14604
(phases). Everything is a sum of `Term`s, each a product, so that a band and what would turn a verdict follow from the
terms alone.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr_fed.carbon.constants import Constants
from asr_fed.config.carbon import Communication

HOUR = 3600.0  # seconds
MEGA, GB, KILO = 1e6, 1e9, 1e3
PHASES = ("compute", "upload", "download", "idle", "server")


@dataclass(frozen=True)
class ClientWork:
    """What clients with one kind of device did in one round, in one country; seconds and bytes added up over them.

    intensity: the name of the constant for the country's electricity.
    """

    round: int
    country: str
    intensity: str
    device: str
    compute_s: float
    download_s: float
    upload_s: float
    idle_s: float
    bytes_down: float
    bytes_up: float


@dataclass(frozen=True)
class ServerWork:
    round: int
    country: str
    intensity: str
    seconds: float


@dataclass(frozen=True)
class Term:
    """An energy in Wh: `amount`, times the constants named by `factors`.

    intensity: the constant that makes emissions of it.
    """

    round: int
    country: str
    phase: str
    amount: float
    factors: tuple[str, ...]
    intensity: str


class Band(NamedTuple):
    """A result with every constant at its lower bound, its value, its upper bound."""

    low: float
    value: float
    high: float


Values = Mapping[str, float]


def federated_terms(
    clients: Iterable[ClientWork], servers: Iterable[ServerWork], communication: Communication
) -> list[Term]:
    """One term for each round, country, phase and set of constants; Wh."""
    amounts: defaultdict[tuple[int, str, str, tuple[str, ...], str], float] = defaultdict(float)
    for work in clients:

        def add(phase: str, amount: float, *factors: str, work: ClientWork = work) -> None:
            amounts[work.round, work.country, phase, factors, work.intensity] += amount

        add("compute", work.compute_s / HOUR, f"{work.device}_compute")
        add("idle", work.idle_s / HOUR, f"{work.device}_idle")
        for phase, seconds, transferred in (
            ("upload", work.upload_s, work.bytes_up),
            ("download", work.download_s, work.bytes_down),
        ):
            if communication is Communication.transfer_time:
                add(phase, seconds / HOUR, f"{work.device}_transfer")
                add(phase, seconds / HOUR, "router")
            else:
                add(phase, transferred / GB * KILO, f"{communication.name}_kwh_per_gb")
    for server in servers:
        key = (server.round, server.country, "server", ("server", "server_pue"), server.intensity)
        amounts[key] += server.seconds / HOUR
    return [
        Term(number, country, phase, amount, factors, of)
        for (number, country, phase, factors, of), amount in amounts.items()
        if amount > 0
    ]


def mean_mbps(clients: Sequence[ClientWork]) -> float | None:
    """Bits of all transfers over their seconds; None where there are none."""
    seconds = math.fsum(work.download_s + work.upload_s for work in clients)
    return 8 / MEGA * math.fsum(work.bytes_down + work.bytes_up for work in clients) / seconds if seconds else None


def central_term(seconds: float, device: str, country: str, intensity: str, *factors: str) -> Term:
    """Training in a data centre: PUE x time x power. `factors`: further constants that the time is a product of."""
    return Term(0, country, "compute", seconds / HOUR, (f"{device}_compute", "data_centre_pue", *factors), intensity)


def energy(terms: Iterable[Term], values: Values) -> float:
    """Wh."""
    return math.fsum(term.amount * math.prod(values[name] for name in term.factors) for term in terms)


def emissions(terms: Iterable[Term], values: Values) -> float:
    """g CO2e."""
    return math.fsum(
        term.amount * math.prod(values[name] for name in term.factors) * values[term.intensity] / KILO for term in terms
    )


def band(of: Callable[[Sequence[Term], Values], float], terms: Sequence[Term], constants: Constants) -> Band:
    """`energy` or `emissions` with all constants at their lower bounds, values and upper bounds.

    The bounds of what they are: no constant is negative, so both grow with each of them.
    """
    return Band(
        of(terms, {name: each.low for name, each in constants.items()}),
        of(terms, {name: each.value for name, each in constants.items()}),
        of(terms, {name: each.high for name, each in constants.items()}),
    )


def grouped(terms: Iterable[Term], key: Callable[[Term], str | int]) -> dict[str | int, list[Term]]:
    groups: defaultdict[str | int, list[Term]] = defaultdict(list)
    for term in terms:
        groups[key(term)].append(term)
    return dict(groups)


def names(terms: Iterable[Term]) -> set[str]:
    """The constants that the emissions of these terms depend on."""
    return {name for term in terms for name in (*term.factors, term.intensity)}
