"""Words of the command line, `key=value`, as Hydra reads them.

In Hydra's grammar for values, = ( , ~ and accents have a meaning or are not allowed. If the key takes text, such as a
path, the value is quoted here for the user; otherwise an error says how to quote it.
"""

import shlex
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass
from types import UnionType

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from asr_fed.config.schema import Config
from asr_fed.system.errors import UserError

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--info", "-i")  # flags with a value


def hydra_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides of a command line; the overrides are in Hydra's grammar.

    Raises UserError for a word that is neither, and for a value that cannot be read.
    """
    sweep = "--multirun" in words or "-m" in words
    flags: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or before in WITH_VALUE:
            flags.append(word)
        elif "=" in word or word.startswith("~"):
            overrides.append(_readable(word, sweep))
        else:
            raise UserError(f"{word} is neither a flag nor key=value. Did a space come between key, = and value?")
    return flags, overrides


def _readable(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if _parse(f"{key}=1") is None or not key:
        raise UserError(f"There is no key {key!r} ({word}).")
    read = _parse(word)
    if key.lstrip("+") == "warm_start" and not (read and isinstance(read.value(), dict)):  # warm_start.checkpoint
        return _readable(f"{key}.checkpoint={value}", sweep)
    if _takes_text(key.lstrip("+")):
        literal = read is None or (not sweep if read.is_sweep_override() else not _is_text(read))
        return f"{key}={_quoted(value)}" if literal else word
    if read is None:
        raise UserError(
            f"{word}: the value of {key} cannot be read. Text with other characters than letters, digits and /.-_ "
            f"stands in quotation marks: {shlex.quote(f'{key}={_quoted(value)}')}"
        )
    if read.is_sweep_override() and not sweep:
        raise UserError(
            f"{word} gives {key} several values: add --multirun for a run with each. A list is written "
            f"{shlex.quote(f'{key}=[{value}]')}, and text with a comma {shlex.quote(f'{key}={_quoted(value)}')}."
        )
    return word


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _is_text(read: Override) -> bool:
    return isinstance(read.value(), str | QuotedString | None)


def _quoted(value: str) -> str:
    return QuotedString(value, Quote.double).with_quotes()


def _takes_text(key: str) -> bool:
    """Whether the field with this dotted name is a str (that may be null)."""
    kind: typing.Any = Config
    for name in key.split("."):
        if not is_dataclass(kind) or name not in (hints := typing.get_type_hints(kind)):
            return False
        kind = hints[name]
    return kind is str or (typing.get_origin(kind) in (typing.Union, UnionType) and str in typing.get_args(kind))
