"""Run a recipe again and compare it with the table that it promises.

    python recipes/check.py demo_fr               # run what has not ended yet, compare with measured.csv
    AN4=an4_common_voice/en python recipes/check.py an4 --jobs 2
    python recipes/check.py ablations --write     # make measured.csv and the README's table from the runs
    python recipes/check.py ablations --only SGD  # the rows with SGD in their names, and what they are compared with
    python recipes/check.py ablations --recount   # intervals and tests over speakers again, from measured.csv alone

A recipe is a folder here with a recipe.yaml:

- `base`: how every command line begins.
- `runs`: by name, the rest of the line. The run_dir is `$RUNS/NAME`. A `$NAME` is one of the recipe's `words`, an
  environment variable such as the place of a corpus, or `$RUNS`, the folder of this recipe's runs: a line with
  `$RUNS/start/...` waits for the run `start`.
- `accounts`, where there are some: by name, one of the runs, and the words of another clock by which its time is told
  again (`python -m asr_fed.simulation account`), without training.
- `seeds`: a run with `$SEED` in its name is one run for each of them.
- `rows`, of the table: `name`, `run`, and `system`, that is warm_start, federated or central. A row over seeds has the
  errors of all its runs together. `against`: the row it is compared with, run by run on the same utterances.
- `tolerance`: points of WER by which a row may differ from measured.csv.

A run that has ended is not repeated, one that was stopped goes on. A new --folder begins afresh.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

RECIPES = Path(__file__).resolve().parent
sys.path.insert(0, str(RECIPES.parent))  # where this is run as a file

from asr_fed.runs.summary import read_any_summary  # noqa: E402
from asr_fed.system.errors import UserError  # noqa: E402
from asr_fed.system.exit_status import exit_status  # noqa: E402
from recipes.checking.execute import execute  # noqa: E402
from recipes.checking.measure import Measured, measure, recount  # noqa: E402
from recipes.checking.recipe import Recipe, only, read_recipe  # noqa: E402
from recipes.checking.table import measured_on, read_measured, write_measured  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a row is out of its tolerance, 2 where something has to be put right first."""
    parser = argparse.ArgumentParser(description="Run recipes again and compare them with their committed tables.")
    known = sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml"))
    parser.add_argument("recipes", nargs="+", choices=known, metavar="RECIPE", help=", ".join(known))
    parser.add_argument("--folder", type=Path, default=Path("outputs/recipes"), help="where the runs go")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time: a core and 3 GB each (default 1)")
    parser.add_argument("--only", metavar="ROWS", help="a regular expression for the names of rows; others stay")
    parser.add_argument("--write", action="store_true", help="replace measured.csv and the README's table")
    parser.add_argument("--recount", action="store_true", help="the same from the counts in measured.csv, without runs")
    chosen = parser.parse_intermixed_args(arguments)  # options may stand between names
    return exit_status("check", lambda: int(bool(check(chosen))))


def check(chosen: argparse.Namespace) -> list[str]:
    """Run and compare, or with `chosen.write` write, each recipe; the names of those out of tolerance."""
    if chosen.jobs < 1:
        raise UserError(f"--jobs {chosen.jobs}: at least one run at a time.")
    different = []
    for name in chosen.recipes:
        whole = read_recipe(RECIPES / name)
        if chosen.recount:
            write_measured(whole, recount(read_measured(whole)))
            continue
        recipe = only(whole, chosen.only) if chosen.only else whole
        runs = (chosen.folder / name).absolute()
        execute(recipe, runs, chosen.jobs)
        rows = measure(recipe, runs)
        if chosen.write:
            seconds = sum(read_any_summary(runs / run).seconds for run in recipe.runs)
            said = f"{len(recipe.runs)} runs of {seconds / 60:.0f} minutes together"
            if chosen.only:
                said += f", for {len(rows)} of {len(whole.rows)} rows; the others earlier"
                rows = _among_earlier(whole, rows)
            write_measured(whole, rows, measured_on(said))
        elif not compare(recipe, rows):
            different.append(name)
    return different


def _among_earlier(recipe: Recipe, rows: list[Measured]) -> list[Measured]:
    """The recipe's rows in their order: `rows`, and of measured.csv those that are not among them.

    Raises UserError where one of those was compared with another measurement of one of `rows`.
    """
    earlier = {row.name: row for row in (read_measured(recipe) if (recipe.folder / "measured.csv").is_file() else ())}
    known = earlier | {row.name: row for row in rows}
    other = {row.name for row in rows if row.name in earlier and _counts(earlier[row.name]) != _counts(row)}
    new = {row.name for row in rows}
    if stale := [row.name for row in recipe.rows if row.name not in new and row.name in known and row.against in other]:
        raise UserError(
            f"{recipe.folder.name}: these rows are compared with some that came out differently now. Name them in "
            f"--only, too: {', '.join(stale)}."
        )
    return [known[row.name] for row in recipe.rows if row.name in known]


def _counts(row: Measured) -> list[tuple[int, int]]:
    return [(each.errors, each.units) for each in row.speakers]


def compare(recipe: Recipe, rows: list[Measured]) -> bool:
    """Print the rows beside those of measured.csv; whether all are within the tolerance."""
    expected = {row.name: row.wer for row in read_measured(recipe)}
    table = Table(title=f"{recipe.folder.name}: WER, which may differ by {recipe.tolerance:g}")
    for column in ("", "measured then", "now", ""):
        table.add_column(column, justify="right" if column else "left")
    within = True
    for row in rows:
        then = expected.get(row.name)
        good = then is not None and abs(row.wer - then) <= recipe.tolerance
        within &= good
        verdict = "ok" if good else "not in measured.csv" if then is None else "DIFFERS"
        table.add_row(row.name, "" if then is None else f"{then:.2f}", f"{row.wer:.2f}", verdict)
    Console().print(table)
    return within


if __name__ == "__main__":
    sys.exit(main())
