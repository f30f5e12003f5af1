"""The one table of constants: powers, losses, networks, electricity of countries. Each has bounds and a source."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from asr_fed.config.explain import nearest
from asr_fed.data.text_file import read_table
from asr_fed.system.errors import UserError

TABLE = Path(__file__).with_name("constants.csv")
COLUMNS = ("name", "value", "low", "high", "unit", "year", "source")
INTENSITY = "g/kWh"
GRID = "grid"  # the set of intensities that is not of one publication: each country's latest year
SPREAD = 0.3  # bounds of an intensity: years, hours and ways of counting differ by as much. Ours.
ALIASES = {"us": "united_states", "usa": "united_states", "uk": "united_kingdom"}


@dataclass(frozen=True)
class Constant:
    """0 <= low <= value <= high, in `unit`; as of `year`."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    year: int
    source: str


Constants = Mapping[str, Constant]


def read_constants(path: Path = TABLE) -> dict[str, Constant]:
    """By name. Raises UserError, naming the line, for what is no number, negative or out of order."""
    constants: dict[str, Constant] = {}
    for line, row in read_table(path, COLUMNS):
        where = f"{path}, line {line}: {row['name']}"
        try:
            numbers = {key: float(row[key]) for key in ("value", "low", "high")}
            year = int(row["year"])
        except ValueError:
            raise UserError(f"{where}: value, low, high and year must be numbers.") from None
        if row["name"] in constants:
            raise UserError(f"{where} occurs twice.")
        constant = Constant(row["name"], **numbers, unit=row["unit"], year=year, source=row["source"])
        constants[constant.name] = checked(constant, where)
    return constants


def checked(constant: Constant, where: str) -> Constant:
    """The same constant. Raises UserError where it is negative or not within its bounds."""
    low, value, high = constant.low, constant.value, constant.high
    if not all(map(isfinite, (low, value, high))) or low < 0:
        raise UserError(f"{where}: {value:g} within {low:g} to {high:g} is not possible: no constant is negative.")
    if not low <= value <= high:
        raise UserError(f"{where}: {value:g} is not within its bounds of {low:g} to {high:g}.")
    if constant.name.endswith("_pue") and low < 1:
        raise UserError(f"{where}: a PUE below 1 is not possible.")
    return constant


def with_changes(constants: Constants, changes: Mapping[str, Any], key: str) -> dict[str, Constant]:
    """The table with values of one's own: by name a number, taken as exact, or [low, value, high].

    A name that is not in the table is allowed for the electricity of a country, `grid_COUNTRY`. `key` is what errors
    begin with. Raises UserError where a name is unknown, or a value not possible.
    """
    changed = dict(constants)
    for name, given in changes.items():
        where = f"{key}.{name}"
        if name not in constants and not name.startswith(f"{GRID}_"):
            raise UserError(f"{where}: there is no such constant.{nearest(name, list(constants))}")
        numbers = given if isinstance(given, list) else [given] * 3
        if len(numbers) != 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise UserError(f"{where}={given}: give a number, or [low, value, high].")
        old = constants.get(name, Constant(name, 0, 0, 0, INTENSITY, 0, ""))
        low, value, high = map(float, numbers)
        changed[name] = checked(replace(old, low=low, value=value, high=high, year=0, source="given"), where)
    return changed


def intensity(constants: dict[str, Constant], collection: str, country: str, key: str) -> str:
    """The name of the constant that is the carbon intensity of a country's electricity.

    Of the set `grid` a country that is not in the table is looked up in codecarbon's, where that is installed, and
    added to `constants`. `key` is what errors begin with. Raises UserError where nobody knows the country.
    """
    country = country.strip().lower().replace(" ", "_")
    country = ALIASES.get(country, country)
    name = f"{collection}_{country}"
    if name in constants:
        return name
    found = _of_codecarbon(country) if collection == GRID else None
    if found is not None:
        constants[name] = found
        return name
    countries = [each.removeprefix(f"{collection}_") for each in constants if each.startswith(f"{collection}_")]
    advice = ""
    if collection == GRID:
        advice = f" Or give its intensity in g/kWh: constants: {{{name}: [low, value, high]}}."
        if find_spec("codecarbon") is None:
            advice += " With pip install 'asr_fed[carbon]' there are about 200 countries."
    raise UserError(
        f"{key}: the carbon intensity of {country!r} is not known in the set {collection}."
        f"{nearest(country, countries) or ' It has ' + ', '.join(sorted(countries)) + '.'}{advice}"
    )


def collections(constants: Constants) -> list[str]:
    """The sets of intensities that there are."""
    return sorted({name.partition("_")[0] for name, each in constants.items() if each.unit == INTENSITY})


def check_device(constants: Constants, device: str, key: str) -> str:
    """The same device. Raises UserError where the table has no power of it."""
    if f"{device}_compute" not in constants:
        known = [name.removesuffix("_compute") for name in constants if name.endswith("_compute")]
        raise UserError(f"{key}: the power of a {device!r} is not known. It is one of {', '.join(known)}.")
    return device


def _of_codecarbon(country: str) -> Constant | None:
    if find_spec("codecarbon") is None:
        return None
    from codecarbon.input import DataSource

    source: Any = DataSource  # it has no types
    for entry in source().get_global_energy_mix_data().values():
        value = entry.get("carbon_intensity") or 0.0
        if value > 0 and country in (entry["country_name"].lower().replace(" ", "_"), entry["iso_code"].lower()):
            low, high = value * (1 - SPREAD), value * (1 + SPREAD)
            origin = "Our World in Data and Ember, by codecarbon; bounds: 30 %, ours"
            return Constant(f"{GRID}_{country}", value, low, high, INTENSITY, int(entry["year"]), origin)
    return None
