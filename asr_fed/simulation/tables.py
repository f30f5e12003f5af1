"""Tables of devices, networks and availability: those in this package by their names, and CSV files of one's own."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from asr_fed.config.paths import is_file_name
from asr_fed.data.text_file import read_table
from asr_fed.system.errors import UserError

FOLDER = Path(__file__).parent
HOURS = 24
ROUNDING = 1e-3  # by which shares may miss 1
MBPS = 1e6 / 8  # bytes a second


@dataclass(frozen=True)
class Device:
    """A class of devices: its share of the fleet, and how many times longer than the reference it computes."""

    name: str
    share: float
    slowdown: float


@dataclass(frozen=True)
class Network:
    """Speeds in bytes a second by quantile, through which the distribution goes; log-normal between two of them.

    Beyond the first and last quantile speeds are theirs. One of a single quantile is the same for everybody.
    """

    quantiles: tuple[float, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]

    def speeds(self, quantile: float) -> tuple[float, float]:
        """Down and up: who is slow one way is as slow the other."""
        if len(self.quantiles) == 1:
            return self.down[0], self.up[0]
        normal = NormalDist()
        places = [normal.inv_cdf(each) for each in self.quantiles]
        place = normal.inv_cdf(min(max(quantile, self.quantiles[0]), self.quantiles[-1]))
        down, up = (math.exp(np.interp(place, places, np.log(speeds))) for speeds in (self.down, self.up))
        return down, up


@dataclass(frozen=True)
class Availability:
    """The share of clients that are there, by hour of their own day."""

    by_hour: tuple[float, ...]

    def at(self, hour: float) -> float:
        return self.by_hour[int(hour) % HOURS]


def read_devices(name: str) -> tuple[Device, ...]:
    """A table with the columns device, share, and slowdown or score (a slowdown is then the best score over its own).

    Raises UserError, with the row, for a share or slowdown that cannot be, and where shares do not sum to 1.
    """
    path = _find(name, "devices")
    rows = list(read_table(path, ("device", "share"), comment="#"))
    if not rows:
        raise UserError(f"{path} has no device.")
    column = next((each for each in ("slowdown", "score") if each in rows[0][1]), None)
    if column is None:
        raise UserError(f"{path} has neither a column slowdown nor a column score.")
    names = [row["device"].strip() for _, row in rows]
    if repeated := {each for each in names if names.count(each) > 1}:
        raise UserError(f"{path}: the device {min(repeated)!r} occurs twice.")
    shares = [_positive(path, line, row, "share") for line, row in rows]
    values = [_positive(path, line, row, column) for line, row in rows]
    if abs(math.fsum(shares) - 1) > ROUNDING:
        raise UserError(f"{path}: the shares of its {len(rows)} devices sum to {math.fsum(shares):g} in place of 1.")
    best = max(values)
    slowdowns = [best / value if column == "score" else value for value in values]
    return tuple(Device(*each) for each in zip(names, shares, slowdowns, strict=True))


def read_network(name: str) -> Network:
    """A number is Mbit/s both ways, DOWN/UP two of them; else a table with columns quantile, mbps_down and mbps_up.

    Raises UserError, with the row, where a speed is not positive, and where quantiles or speeds do not rise.
    """
    parts = name.split("/")
    if len(parts) <= 2 and all(_is_number(part) for part in parts):
        speeds = [float(part) * MBPS for part in parts]
        if not all(0 < speed < math.inf for speed in speeds):
            raise UserError(f"simulation.network={name} is not possible: a speed is above 0 Mbit/s.")
        return Network((0.5,), (speeds[0],), (speeds[-1],))
    path = _find(name, "networks")
    columns: tuple[list[float], ...] = ([], [], [])
    for line, row in read_table(path, ("quantile", "mbps_down", "mbps_up"), comment="#"):
        for values, key in zip(columns, ("quantile", "mbps_down", "mbps_up"), strict=True):
            value = _positive(path, line, row, key)
            if key == "quantile" and value >= 1:
                raise UserError(f"{path}, line {line}: the quantile {value:g} is not below 1.")
            if (values and value < values[-1]) or (key == "quantile" and value in values):
                raise UserError(f"{path}, line {line}: {key} {value:g} falls, or does not rise.")
            values.append(value)
    if not columns[0]:
        raise UserError(f"{path} has no quantile.")
    quantiles, down, up = columns
    return Network(tuple(quantiles), tuple(v * MBPS for v in down), tuple(v * MBPS for v in up))


def read_availability(name: str) -> Availability:
    """A table with the columns hour (0 to 23, each once) and available (a share).

    Raises UserError for an hour that is missing or twice there, and a share outside 0 to 1.
    """
    path = _find(name, "availability")
    by_hour: dict[int, float] = {}
    for line, row in read_table(path, ("hour", "available"), comment="#"):
        if not row["hour"].strip().isdigit() or not 0 <= (hour := int(row["hour"])) < HOURS or hour in by_hour:
            raise UserError(f"{path}, line {line}: hour {row['hour']!r} is none of 0 to 23, or there twice.")
        share = _number(path, line, row, "available")
        if not 0 <= share <= 1:
            raise UserError(f"{path}, line {line}: available {share:g} is not a share from 0 to 1.")
        by_hour[hour] = share
    if missing := sorted(set(range(HOURS)) - by_hour.keys()):
        raise UserError(f"{path} has holes: no row for hour {', '.join(map(str, missing))}.")
    if not any(by_hour.values()):
        raise UserError(f"{path}: nobody is ever available.")
    return Availability(tuple(by_hour[hour] for hour in range(HOURS)))


def names_of(kind: str) -> list[str]:
    """The tables of a kind (devices, networks, availability) that come with asr_fed."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.csv"))


def _find(name: str, kind: str) -> Path:
    if is_file_name(name):
        if not Path(name).is_file():
            raise UserError(f"There is no table {name}.")
        return Path(name)
    if name not in names_of(kind):
        raise UserError(f"There is no table of {kind} {name!r}: use {', '.join(names_of(kind))}, or a CSV file.")
    return FOLDER / kind / f"{name}.csv"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, row: dict[str, str], key: str) -> float:
    if not _is_number(row[key]) or not math.isfinite(float(row[key])):
        raise UserError(f"{path}, line {line}: {key} {row[key]!r} is not a number.")
    return float(row[key])


def _positive(path: Path, line: int, row: dict[str, str], key: str) -> float:
    value = _number(path, line, row, key)
    if value <= 0:
        raise UserError(f"{path}, line {line}: {key} {value:g} is not above 0.")
    return value
