"""The committed table of a recipe: measured.csv, and what the README shows of it."""

import csv
import platform
from datetime import date
from typing import Any

from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_text
from asr_fed.system.processes import available_cores
from recipes.checking.measure import FIELDS, Measured
from recipes.checking.recipe import Recipe

LEGEND = """\
WER: the mean of the runs, which differ in their seed; its 95 % interval over test speakers (jackknife, t); the least
and the greatest of the runs. Difference: points of WER to the row named, with its 95 % interval over the same speakers,
and the least and the greatest of the runs, each to the one with its seed; p of the paired t test over speakers, and of
the matched-pairs test of segments (of utterances where there are several runs, whose errors on the same utterance go
together)."""
HEAD = ("", "test WER %", "over speakers", "over runs", "CER %")
HEAD += ("difference", "p, speakers", "p, segments", "runs", "minutes each")
# Columns, and what the legend says of them; a table where no row has one does without it.
OPTIONAL = {
    "ctc_greedy_wer": ("CTC greedy WER %", "CTC greedy: the same models decoded by CTC alone, without a search."),
    "effective_clients": ("effective clients", "Effective clients: sum(w)^2 / sum(w^2) over the weights w."),
}
MARKS = ("<!-- measured -->", "<!-- end of measured -->")


def read_measured(recipe: Recipe) -> list[Measured]:
    """The committed rows, with what columns they have. Raises UserError where there is none, or a bad one."""
    path = recipe.folder / "measured.csv"
    if not path.is_file():
        raise UserError(f"{path} is not there. Make it with --write.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            Measured(**{field.name: _read(field.name, row.get(field.name, "")) for field in FIELDS}) for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}). Make it with --write.") from error


def _read(name: str, text: str) -> Any:
    from asr_fed.evaluation.wer import ErrorCounts

    if name == "speakers":  # errors/words of each; of what kind the errors are does not matter here
        counts = (map(int, each.split("/")) for each in text.split())
        return tuple(ErrorCounts(substitutions=errors, units=words) for errors, words in counts)
    if name in ("name", "against"):
        return text or None
    return int(text) if name == "runs" else float(text) if text else None


def write_measured(recipe: Recipe, rows: list[Measured], measured: str | None = None) -> None:
    """measured.csv, and the table in the README. Raises UserError where that has no place for it.

    measured: the line above the table, of when and where; as it was by default.
    """
    readme = recipe.folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    if [text.count(mark) for mark in MARKS] != [1, 1]:
        raise UserError(f"{readme} has no place for the table: it goes between {MARKS[0]} and {MARKS[1]}.")
    before, rest = text.split(MARKS[0])
    old, after = rest.split(MARKS[1])
    with replacing(recipe.folder / "measured.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in FIELDS], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _written(value) for key, value in vars(row).items()} for row in rows)
    table = markdown(rows, measured or old.strip().partition("\n")[0])
    write_text(readme, f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}")


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(f"{each.errors}/{each.units}" for each in value)
    return f"{value:.7g}" if isinstance(value, float) else value  # rounded once more in the table


def measured_on(summary: str) -> str:
    machine = f"{available_cores()} cores ({platform.machine()}), Python {platform.python_version()}"
    return f"{date.today():%-d %B %Y}, {machine}: {summary}."


def markdown(rows: list[Measured], measured: str) -> str:
    shown = [name for name in OPTIONAL if any(getattr(row, name) is not None for row in rows)]
    head = (*HEAD, *(OPTIONAL[name][0] for name in shown))
    lines = [measured, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        difference = ""
        if row.difference is not None:
            over_runs = row.runs > 1 and _interval(row.difference_least, row.difference_greatest, "+.1f")
            doubts = (
                _interval(row.difference_low, row.difference_high, "+.1f"),
                f"runs {over_runs}" if over_runs else "",
            )
            around = f" ({'; '.join(filter(None, doubts))})" if any(doubts) else ""
            difference = f"{row.difference:+.1f}{around} to {row.against}"
        cells = (
            row.name,
            f"{row.wer:.1f}",
            _interval(row.low, row.high, ".1f"),
            _interval(row.least, row.greatest, ".1f") if row.runs > 1 else "",
            f"{row.cer:.1f}",
            difference,
            "" if row.paired_t_p is None else f"{row.paired_t_p:.2g}",
            "" if row.matched_pairs_p is None else f"{row.matched_pairs_p:.2g}",
            str(row.runs),
            f"{row.minutes:.1f}",
            *("" if getattr(row, name) is None else f"{getattr(row, name):.1f}" for name in shown),
        )
        lines.append(f"| {' | '.join(cells)} |")
    legend = "".join(f"\n{OPTIONAL[name][1]}" for name in shown)
    return "\n".join(lines) + "\n\n" + LEGEND + legend + "\n"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
