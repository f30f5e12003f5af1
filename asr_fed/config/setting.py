"""The range of a number is defined once, beside its field; `check_ranges` checks a whole config."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any

from omegaconf import MISSING

from asr_fed.system.errors import UserError

RANGE = "range"  # of a field's metadata


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have; a bound that is None does not apply. Infinity and NaN are never in the
    range.

    fraction: a number with a decimal point is a share instead, above 0 and at most 1.
    items, most_items: the setting is a list with at least and at most this many numbers, each in the range.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    fraction: bool = False
    items: int | None = None
    most_items: int | None = None

    def __contains__(self, value: Any) -> bool:
        """None is accepted here: the type of a setting says whether it may be null."""
        if value is None:
            return True
        if self.items is not None:
            return self.items <= len(value) <= (self.most_items or len(value)) and all(map(self._has, value))
        return self._has(value)

    def _has(self, number: float) -> bool:
        if self.fraction and isinstance(number, float):
            return 0 < number <= 1
        return (
            isfinite(number)
            and (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.below is None or number < self.below)
            and (self.at_most is None or number <= self.at_most)
        )

    def __str__(self) -> str:
        """The range in words: `at least 0 and below 1`."""
        words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
        bounds = [f"{words[name]} {getattr(self, name):g}" for name in words if getattr(self, name) is not None]
        text = " and ".join(bounds) or "a finite number"
        if self.fraction:
            text = f"a whole number, {text}, or a fraction above 0 and at most 1"
        if self.items is not None:
            more = "" if self.items == self.most_items else f" to {self.most_items}" if self.most_items else " or more"
            text = f"{self.items}{more} numbers, each {text}"
        return text


def setting(
    default: Any = MISSING,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    fraction: bool = False,
    items: int | None = None,
    most_items: int | None = None,
) -> Any:
    """A field of a dataclass with this default and this range. See `Range`."""
    metadata = {RANGE: Range(above, at_least, below, at_most, fraction, items, most_items)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def range_of(each: Field[Any]) -> Range | None:
    found: Range | None = each.metadata.get(RANGE)
    return found


def check_ranges(settings: Any, prefix: str = "") -> None:
    """Raises UserError that names every value out of range, in the dataclass `settings` and in those inside it.

    `prefix` is put before the names of its fields: `federation.`, for example.
    """
    wrong = list(_out_of_range(settings, prefix))
    if wrong:
        raise UserError(" ".join(f"{key}={value} is not possible: it must be {good}." for key, value, good in wrong))


def _out_of_range(settings: Any, prefix: str) -> Iterator[tuple[str, Any, Range]]:
    for each in fields(settings):
        value, key = getattr(settings, each.name), f"{prefix}{each.name}"
        if is_dataclass(value):
            yield from _out_of_range(value, f"{key}.")
        elif (good := range_of(each)) is not None and value not in good:
            yield key, value, good
