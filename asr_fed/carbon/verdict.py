"""Federated against centralised: the ratio with its band, and what would turn which of the two emits less."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from asr_fed.carbon.constants import INTENSITY, Constant, Constants
from asr_fed.carbon.model import KILO, Band, Term, Values, emissions, energy, names

MOST_SHARED = 12  # constants that both sides depend on: their corners are tried, all of them
TRANSFERS = ("upload", "download")


@dataclass(frozen=True)
class Turn:
    """A constant with which both sides emit the same, the others at their values."""

    constant: Constant
    at: float

    @property
    def within(self) -> bool:
        return self.constant.low <= self.at <= self.constant.high

    @property
    def times(self) -> float:
        """How far away that is, as a factor of at least 1."""
        ratio = self.at / self.constant.value
        return max(ratio, 1 / ratio)


@dataclass(frozen=True)
class Verdict:
    """ratio: emissions of the federation over those of the centralised run, 1 where both emit the same.

    turns: what would turn it, the nearest first, those within their bounds before the others.
    mbps: the mean speed of the clients' networks at which both emit the same; None where no speed does, or time on the
        network is not what is counted. Its upper bound is infinite where no speed is enough within the bounds.
    intensity: of the clients' electricity at which both do, that of the data centre unchanged, in g/kWh; None where
        none does.

    The bands hold every choice of the other constants within their bounds.
    """

    ratio: Band
    turns: tuple[Turn, ...]
    mbps: Band | None
    intensity: Band | None
    sentence: str


def judge(
    federated: Sequence[Term], central: Sequence[Term], constants: Constants, mbps: float | None
) -> Verdict | None:
    """None where the centralised run emits nothing: there is no ratio to that.

    `mbps`: mean speed of the transfers, total bits over total seconds; None where there are none.
    """
    ratio = ratio_band(federated, central, constants)
    if ratio is None:
        return None
    turns = turning(federated, central, constants)
    speed = break_even_mbps(federated, central, constants, mbps)
    verdict = Verdict(ratio, turns, speed, break_even_intensity(federated, central, constants), "")
    return replace(verdict, sentence=_sentence(verdict, mbps))


def ratio_band(federated: Sequence[Term], central: Sequence[Term], constants: Constants) -> Band | None:
    """Emissions of the federation over those of the centralised run; None where these are 0."""

    def ratio(ours: Values, theirs: Values) -> float | None:
        below = emissions(central, theirs)
        return emissions(federated, ours) / below if below > 0 else None

    return within_bounds(ratio, federated, central, constants)


def within_bounds(
    of: Callable[[Values, Values], float | None],
    federated: Sequence[Term],
    central: Sequence[Term],
    constants: Constants,
) -> Band | None:
    """A result, and the least and the greatest that any choice within the bounds gives; None where it has no value.

    of: the result by the constants of the federation and those of the centralised run. The first all move it in one
        direction, the second in the other.

    What one side alone depends on is at its bound. What both depend on, such as the electricity of a country, is the
    same on both: each of its corners is tried. That is exact, since the result is monotonic in each single constant.
    """
    values = {name: each.value for name, each in constants.items()}
    value = of(values, values)
    if value is None:
        return None
    ours, theirs = names(federated), names(central)
    shared = sorted(ours & theirs)
    if len(shared) > MOST_SHARED:
        shared = [name for name in shared if constants[name].unit != INTENSITY]  # then each side has its own worst
    found = [value]
    for own, other in (("low", "high"), ("high", "low")):
        fixed_ours = values | {name: getattr(constants[name], own) for name in ours}
        fixed_theirs = values | {name: getattr(constants[name], other) for name in theirs}
        for corner in itertools.product(*((constants[name].low, constants[name].high) for name in shared)):
            same = dict(zip(shared, corner, strict=True))
            result = of(fixed_ours | same, fixed_theirs | same)
            if result is not None:
                found.append(result)
    return Band(min(found), value, max(found))


def turning(federated: Sequence[Term], central: Sequence[Term], constants: Constants) -> tuple[Turn, ...]:
    """For each constant the value with which both emit the same: the difference is linear in each of them."""
    values = {name: each.value for name, each in constants.items()}
    found = []
    for name in sorted(names(federated) | names(central)):
        constant = constants[name]
        if constant.value <= 0:
            continue
        at_zero = _difference(federated, central, values | {name: 0.0})
        slope = (_difference(federated, central, values) - at_zero) / constant.value
        if slope == 0:
            continue
        at = -at_zero / slope
        if at > 0 and not (name.endswith("_pue") and at < 1):
            found.append(Turn(constant, at))
    return tuple(sorted(found, key=lambda turn: (not turn.within, turn.times)))


def break_even_mbps(
    federated: Sequence[Term], central: Sequence[Term], constants: Constants, mbps: float | None
) -> Band | None:
    """Infinite is a bound of constants with which no speed is enough."""
    transfers = [term for term in federated if term.phase in TRANSFERS]
    by_time = [term for term in transfers if not any(name.endswith("_kwh_per_gb") for name in term.factors)]
    if mbps is None or not by_time or len(by_time) < len(transfers):
        return None
    rest = [term for term in federated if term.phase not in TRANSFERS]

    def speed(ours: Values, theirs: Values) -> float:
        left = emissions(central, theirs) - emissions(rest, ours)
        return mbps * emissions(transfers, ours) / left if left > 0 else math.inf

    found = within_bounds(speed, federated, central, constants)
    return found if found is not None and math.isfinite(found.value) else None


def break_even_intensity(federated: Sequence[Term], central: Sequence[Term], constants: Constants) -> Band | None:
    """A lower bound of 0: constants with which not even electricity without emissions is enough."""
    server = [term for term in federated if term.phase == "server"]
    clients = [term for term in federated if term.phase != "server"]

    def intensity(ours: Values, theirs: Values) -> float | None:
        watt_hours = energy(clients, ours)
        left = emissions(central, theirs) - emissions(server, ours)
        if watt_hours > 0:
            return KILO * max(0.0, left) / watt_hours
        return math.inf if left > 0 else None

    found = within_bounds(intensity, federated, central, constants)
    return found if found is not None and 0 < found.value < math.inf else None


def _difference(federated: Sequence[Term], central: Sequence[Term], values: Values) -> float:
    return emissions(federated, values) - emissions(central, values)


def _sentence(verdict: Verdict, mbps: float | None) -> str:
    less = verdict.ratio.value < 1
    more_or_less = "less" if less else "more"
    start = f"The federation emits {more_or_less} than the centralised run, and "
    inside = [turn for turn in verdict.turns if turn.within]
    clauses = [_clause(turn) for turn in (inside or verdict.turns)[:2]]
    if verdict.mbps is not None and mbps is not None:
        change = "slower" if less else "faster"
        low, value, high = verdict.mbps
        most = f"{high:.3g}" if math.isfinite(high) else "no speed at all"
        clauses.append(
            f"networks {change} than {value:.3g} Mbps (they are at {mbps:.3g}; within all bounds {low:.3g} to {most})"
        )
    if not clauses:
        return f"{start}no single constant would turn that."
    listed = " or ".join(clauses)
    if inside:
        return f"{start}this would turn with {listed}."
    return f"{start}no constant turns that within its bounds; the nearest would be {listed}."


def _clause(turn: Turn) -> str:
    constant = turn.constant
    direction = "above" if turn.at > constant.value else "below"
    unit = f" {constant.unit}" if constant.unit else ""
    return (
        f"{constant.name.replace('_', ' ')} {direction} {turn.at:.3g}{unit} "
        f"(it is {constant.value:.3g}, {constant.low:.3g} to {constant.high:.3g})"
    )
