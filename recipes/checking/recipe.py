"""recipe.yaml: the runs of a recipe and the rows of its table."""

import os
import re
import shlex
import string
from dataclasses import dataclass
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
