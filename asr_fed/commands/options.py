"""Command-line options for settings of the config, with the setting's type and range."""

import argparse
import typing
from collections.abc import Callable
from dataclasses import fields

from asr_fed.config.setting import range_of


def number_for(settings: type, name: str) -> Callable[[str], float]:
    """For `type=` of an argument: reads a number that the field `name` of the dataclass `settings` may have."""
    good = range_of(next(each for each in fields(settings) if each.name == name))
    hint = typing.get_type_hints(settings)[name]
    kind = float if float in (hint, *typing.get_args(hint)) else int

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not {'a' if kind is float else 'a whole'} number") from None
        if good is not None and number not in good:
            raise argparse.ArgumentTypeError(f"{text} is not possible: it must be {good}")
        return number

    return read
