"""recipe.yaml: the runs of a recipe and the rows of its table."""

import os
import re
import shlex
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from asr_fed.system.errors import UserError

ACCOUNT = "-m asr_fed.simulation account"


@dataclass(frozen=True)
class Row:
    name: str
    runs: tuple[str, ...]
    system: str
    against: str | None


@dataclass(frozen=True)
class Recipe:
    """Command lines by name: of `runs`, which train, and of `accounts`, which tell the time of one of these again."""

    folder: Path
    runs: dict[str, str]
    accounts: dict[str, str]
    rows: tuple[Row, ...]
    tolerance: float


def read_recipe(folder: Path) -> Recipe:
    content = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    words, seeds = content.get("words", {}), content.get("seeds", [])
    runs = {}
    for name, rest in content["runs"].items():
        line = string.Template(f"{content['base']} {rest}").safe_substitute(words)
        for seed in seeds if "$SEED" in name else [None]:
            runs[_seeded(name, seed)] = _seeded(line, seed)
    accounts = {}
    for name, rest in content.get("accounts", {}).items():
        run, _, changes = rest.partition(" ")
        line = f"{ACCOUNT} $RUNS/{run}/ $RUNS/{name} {changes}"
        for seed in seeds if "$SEED" in name else [None]:
            accounts[_seeded(name, seed)] = _seeded(line, seed)
    rows = tuple(
        Row(
            row["name"],
            tuple(_seeded(row["run"], seed) for seed in (seeds if "$SEED" in row["run"] else [None])),
            row["system"],
            row.get("against"),
        )
        for row in content["rows"]
    )
    return Recipe(folder, runs, accounts, rows, content["tolerance"])


def only(recipe: Recipe, pattern: str) -> Recipe:
    """The rows whose name has the regular expression `pattern` in it, what they are compared with, and their runs.

    Raises UserError where no row is named so.
    """
    try:
        named = {row.name for row in recipe.rows if re.search(pattern, row.name)}
    except re.error as error:
        raise UserError(f"--only {pattern}: not a regular expression: {error}.") from error
    if not named:
        rows = "\n  ".join(row.name for row in recipe.rows)
        raise UserError(f"{recipe.folder.name} has no row like {pattern!r}. Its rows:\n  {rows}")
    against = {row.name: row.against for row in recipe.rows}
    named = _and_what_they_need(named, lambda name: {other for other in [against[name]] if other is not None})
    rows = tuple(row for row in recipe.rows if row.name in named)
    lines = recipe.accounts | recipe.runs
    needed = _and_what_they_need({run for row in rows for run in row.runs}, lambda run: starts_from(lines[run]))
    return replace(
        recipe,
        rows=rows,
        runs={name: line for name, line in recipe.runs.items() if name in needed},
        accounts={name: line for name, line in recipe.accounts.items() if name in needed},
    )


def _and_what_they_need(names: set[str], needs: Callable[[str], set[str]]) -> set[str]:
    found: set[str] = set()
    while names:
        found |= names
        names = {need for name in names for need in needs(name)} - found
    return found


def _seeded(text: str, seed: int | None) -> str:
    return text if seed is None else text.replace("$SEED", str(seed))


def command(line: str, runs: Path) -> list[str]:
    """The words of a run's command line. Raises UserError where it names a variable that is not set."""
    try:
        return shlex.split(string.Template(line).substitute(os.environ | {"RUNS": str(runs)}))
    except KeyError as missing:
        raise UserError(
            f"Set the environment variable {missing.args[0]}; the recipe's README says what for."
        ) from missing


def starts_from(line: str) -> set[str]:
    """The runs that this one starts from."""
    return set(re.findall(r"\$RUNS/([^/\s]+)/", line))
