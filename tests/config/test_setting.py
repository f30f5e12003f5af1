"""Every number of a config has a range beside its field: its ends are accepted, what lies outside is refused."""

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest

from asr_fed.config.schema import Config
from asr_fed.config.setting import Range, check_ranges, range_of, setting
from asr_fed.system.errors import UserError

SMALLEST = 1e-9  # what is added to a bound that is not itself in the range


def numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, str, set[type]]]:
    """Of each field that can hold numbers: its key, the dataclass it is in, its name and the types of a number."""
    hints = typing.get_type_hints(type(settings))
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from numbers(value, f"{prefix}{each.name}.")
            continue
        types = {kind for option in _options(hints[each.name]) for kind in _options(option)} & {int, float}
        if types:
            yield f"{prefix}{each.name}", settings, each.name, types


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


CONFIG = Config(run_dir="nowhere")
NUMBERS = {key: (owner, name, types) for key, owner, name, types in numbers(CONFIG)}


def the_range(key: str) -> Range:
    owner, name, _ = NUMBERS[key]
    found = range_of(next(each for each in fields(owner) if each.name == name))
    assert found is not None, f"{key} has no range: write it as setting(...)"
    return found


def value_of(key: str, number: float) -> Any:
    """As a user would write it: a whole number where that is the type, and a list where it is one."""
    good, types = the_range(key), NUMBERS[key][2]
    number = int(number) if types == {int} or (good.fraction and float(number).is_integer()) else float(number)
    return number if good.items is None else [number] * good.items


def refused(key: str, value: Any) -> bool:
    """Whether the config with this value is refused by the name of the key."""
    owner, name, _ = NUMBERS[key]
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        check_ranges(CONFIG)
    except UserError as error:
        assert str(error).startswith(f"{key}={value} is not possible: it must be "), error
        return True
    finally:
        setattr(owner, name, before)
    return False


def test_there_are_numbers_and_the_defaults_are_possible() -> None:
    assert len(NUMBERS) > 80
    check_ranges(CONFIG)


@pytest.mark.parametrize("key", NUMBERS)
def test_the_ends_of_a_range_are_accepted_and_what_lies_outside_is_refused(key: str) -> None:
    good, types = the_range(key), NUMBERS[key][2]
    step = 1 if types == {int} else SMALLEST
    if good.at_least is not None:
        assert not refused(key, value_of(key, good.at_least))
        assert refused(key, value_of(key, good.at_least - (1 if good.fraction else step)))
    if good.above is not None:
        assert not refused(key, value_of(key, good.above + step))
        assert refused(key, value_of(key, good.above))
    if good.at_most is not None:
        assert not refused(key, value_of(key, good.at_most))
        assert refused(key, value_of(key, good.at_most + step))
    if good.below is not None:
        assert not refused(key, value_of(key, good.below - step))
        assert refused(key, value_of(key, good.below))
    if types != {int}:
        for number in (math.nan, math.inf, -math.inf):
            assert refused(key, number if good.items is None else [number] * good.items)
    if good.items:
        assert refused(key, [])
    if good.items and good.most_items:
        (one,) = set(value_of(key, good.at_least or 1))
        assert refused(key, [one] * (good.most_items + 1))


@pytest.mark.parametrize(("cohort", "possible"), [(1, True), (1.0, True), (0.1, True), (1.5, False), (0.0, False)])
def test_a_cohort_with_a_point_is_a_fraction(cohort: float, possible: bool) -> None:
    assert refused("federation.cohort", cohort) is not possible


def test_what_is_wrong_is_told_all_at_once_with_the_range() -> None:
    @dataclass
    class Oven:
        degrees: float = setting(180.0, above=0, at_most=300)
        trays: list[int] = setting([1, 2], at_least=1, items=1, most_items=3)

    check_ranges(Oven())
    assert Oven().trays is not Oven().trays
    with pytest.raises(UserError) as told:
        check_ranges(Oven(degrees=301, trays=[0]), "oven.")
    assert str(told.value) == (
        "oven.degrees=301 is not possible: it must be above 0 and at most 300. "
        "oven.trays=[0] is not possible: it must be 1 to 3 numbers, each at least 1."
    )
