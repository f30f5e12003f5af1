"""Run a recipe again and compare it with the table that it promises.

    python recipes/check.py demo_fr               # run what has not ended yet, compare with measured.csv
    AN4=an4_common_voice/en python recipes/check.py an4 --jobs 2
    python recipes/check.py ablations --write     # make measured.csv and the README's table from the runs
    python recipes/check.py ablations --recount   # intervals and tests over speakers again, from measured.csv alone

A recipe is a folder here with a recipe.yaml:

- `base`: how every command line begins.
- `runs`: by name, the rest of the line. The run_dir is `$RUNS/NAME`. A `$NAME` is one of the recipe's `words`, an
  environment variable such as the place of a corpus, or `$RUNS`, the folder of this recipe's runs: a line with
  `$RUNS/start/...` waits for the run `start`.
- `seeds`: a run with `$SEED` in its name is one run for each of them.
- `rows`, of the table: `name`, `run`, and `system`, that is warm_start, federated or central. A row over seeds has the
  errors of all its runs together. `against`: the row it is compared with, run by run on the same utterances.
- `tolerance`: points of WER by which a row may differ from measured.csv.

A run that has ended is not repeated, one that was stopped goes on. A new --folder begins afresh.
"""

import argparse
import csv
import dataclasses
import os
import platform
import re
import shlex
import string
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from asr_fed.runs.summary import read_summary
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import replacing, write_text
from asr_fed.system.processes import available_cores

if TYPE_CHECKING:
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.evaluation.wer import ErrorCounts

RECIPES = Path(__file__).parent
LEGEND = """\
WER: the mean of the runs, which differ in their seed; its 95 % interval over test speakers (jackknife, t); the least
and the greatest of the runs. Difference: points of WER to the row named, with its 95 % interval over the same speakers;
p of the paired t test over speakers, and of the matched-pairs test of segments (of utterances where there are several
runs, whose errors on the same utterance go together)."""
HEAD = ("", "test WER %", "over speakers", "over runs", "CER %")
HEAD += ("difference", "p, speakers", "p, segments", "runs", "minutes each")
MARKS = ("<!-- measured -->", "<!-- end of measured -->")


@dataclass(frozen=True)
class Row:
    name: str
    runs: tuple[str, ...]
    system: str
    against: str | None


@dataclass(frozen=True)
class Recipe:
    folder: Path
    runs: dict[str, str]  # command lines by name
    rows: tuple[Row, ...]
    tolerance: float


@dataclass(frozen=True)
class Measured:
    """A row of measured.csv: WER and CER in percent, differences in points of WER, None where there is none.

    wer: of all runs together, which is their mean, since all have the same test words. `low` to `high`: its 95 %
        interval over test speakers. `least` and `greatest`: of the single runs.
    difference: to the row `against`, with the interval over test speakers of the difference and p of both tests.
    minutes: of one run, the mean.
    speakers: word errors of each test speaker in all runs, of the same speaker at the same place in every row. What
        stands above of speakers follows from them.
    """

    name: str
    wer: float
    low: float | None
    high: float | None
    least: float
    greatest: float
    cer: float
    against: str | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    paired_t_p: float | None
    matched_pairs_p: float | None
    runs: int
    minutes: float
    speakers: "tuple[ErrorCounts, ...]"


FIELDS = dataclasses.fields(Measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a row is out of its tolerance, 2 where something has to be put right first."""
    parser = argparse.ArgumentParser(description="Run recipes again and compare them with their committed tables.")
    known = sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml"))
    parser.add_argument("recipes", nargs="+", choices=known, metavar="RECIPE", help=", ".join(known))
    parser.add_argument("--folder", type=Path, default=Path("outputs/recipes"), help="where the runs go")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time: a core and 3 GB each (default 1)")
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
        recipe = read_recipe(RECIPES / name)
        if chosen.recount:
            write_measured(recipe, recount(read_measured(recipe)))
            continue
        runs = (chosen.folder / name).absolute()
        execute(recipe, runs, chosen.jobs)
        rows = measure(recipe, runs)
        if chosen.write:
            seconds = sum(read_summary(runs / run).seconds for run in recipe.runs)
            write_measured(recipe, rows, measured_on(f"{len(recipe.runs)} runs of {seconds / 60:.0f} minutes together"))
        elif not compare(recipe, rows):
            different.append(name)
    return different


def read_recipe(folder: Path) -> Recipe:
    content = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    words, seeds = content.get("words", {}), content.get("seeds", [])
    runs = {}
    for name, rest in content["runs"].items():
        line = string.Template(f"{content['base']} {rest}").safe_substitute(words)
        for seed in seeds if "$SEED" in name else [None]:
            runs[_seeded(name, seed)] = _seeded(line, seed)
    rows = tuple(
        Row(
            row["name"],
            tuple(_seeded(row["run"], seed) for seed in (seeds if "$SEED" in row["run"] else [None])),
            row["system"],
            row.get("against"),
        )
        for row in content["rows"]
    )
    return Recipe(folder, runs, rows, content["tolerance"])


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


def execute(recipe: Recipe, runs: Path, jobs: int = 1) -> None:
    """Run whatever has not ended yet, `jobs` at a time; each tells what it does in `runs`/NAME.log.

    Raises UserError where a run fails. Those that are under way then come to their end, no other is started.
    """
    waiting = {name: line for name, line in recipe.runs.items() if not (runs / name / "summary.json").is_file()}
    if not waiting:
        return
    words = {name: _words(line, name, runs) for name, line in waiting.items()}  # all, before any work
    runs.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    running: dict[Future[int], str] = {}
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task(recipe.folder.name, total=len(waiting))
        while waiting or running:
            ahead = waiting.keys() | set(running.values())
            ready = [name for name, line in waiting.items() if not starts_from(line) & ahead]
            for name in ready[: jobs - len(running)]:
                del waiting[name]
                bar.console.print(_shown(words[name]), soft_wrap=True, highlight=False, markup=False)
                running[pool.submit(_run, words[name], runs / f"{name}.log")] = name
            bar.update(task, description=f"{recipe.folder.name}: {', '.join(running.values())}")
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(ended)
                if ended.result():
                    raise UserError(_failure(recipe, name, words[name], runs / f"{name}.log", ended.result()))
                bar.advance(task)


def _words(line: str, name: str, runs: Path) -> list[str]:
    resume = ["resume=true"] if (runs / name / "config.yaml").is_file() else []
    return [*command(line, runs), f"run_dir={runs / name}", *resume]


def starts_from(line: str) -> set[str]:
    """The runs that this one starts from."""
    return set(re.findall(r"\$RUNS/([^/\s]+)/", line))


def _shown(words: list[str]) -> str:
    return shlex.join(["python", *words])


def _run(words: list[str], log: Path) -> int:
    with log.open("w", encoding="utf-8") as file:
        return subprocess.run(
            [sys.executable, *words], cwd=RECIPES.parent, stdout=file, stderr=subprocess.STDOUT
        ).returncode


def _failure(recipe: Recipe, name: str, words: list[str], log: Path, status: int) -> str:
    said = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    what = f"{recipe.folder.name}: the run {name} ended with status {status}: {said}"
    return f"{what}\n  {_shown(words)}\n  more in {log}"


def measure(recipe: Recipe, runs: Path) -> list[Measured]:
    """The rows, from what the runs left. Raises UserError where that is not there, or `against` does not fit."""
    evaluations = {row.name: pooled(row, runs) for row in recipe.rows}
    sizes = {row.name: len(row.runs) for row in recipe.rows}
    for row in recipe.rows:
        if row.against is not None and sizes.get(row.against) != sizes[row.name]:
            raise UserError(f"{recipe.folder.name}: {row.name} is compared with {row.against}, no row of as many runs.")
    return [_measure_row(row, evaluations, runs) for row in recipe.rows]


def _measure_row(row: Row, evaluations: "Mapping[str, Evaluation]", runs: Path) -> Measured:
    own, other = evaluations[row.name], None if row.against is None else evaluations[row.against]
    summaries = [read_summary(runs / run) for run in row.runs]
    wers = [summary.systems[row.system].wer for summary in summaries]
    speakers = tuple(own.speakers.values())
    return Measured(
        name=row.name,
        **over_speakers(speakers, None if other is None else tuple(other.speakers.values())),
        least=min(wers),
        greatest=max(wers),
        cer=own.cer,
        against=row.against,
        matched_pairs_p=None if other is None else _matched_pairs_p(own, other, len(row.runs)),
        runs=len(row.runs),
        minutes=fmean(summary.seconds for summary in summaries) / 60,
        speakers=speakers,
    )


def over_speakers(own: "Sequence[ErrorCounts]", other: "Sequence[ErrorCounts] | None") -> dict[str, Any]:
    """What a row says of speakers, by field; `other`: the same speakers in the row that it is compared with."""
    from asr_fed.evaluation.statistics import paired_t, wer_interval
    from asr_fed.evaluation.wer import total

    interval = wer_interval(own)
    around, p = (None, None) if other is None else paired_t(own, other)
    return {
        "wer": total(own).percent,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "difference": None if other is None else total(own).percent - total(other).percent,
        "difference_low": around and around.low,
        "difference_high": around and around.high,
        "paired_t_p": p,
    }


def recount(rows: Sequence[Measured]) -> list[Measured]:
    """The rows with what follows from their counts computed again. Raises UserError where one has none."""
    speakers = {row.name: row.speakers for row in rows}
    if bare := [name for name, counts in speakers.items() if not counts]:
        raise UserError(f"measured.csv has no counts for {', '.join(bare)}: make it from runs with --write.")
    return [
        dataclasses.replace(row, **over_speakers(row.speakers, None if row.against is None else speakers[row.against]))
        for row in rows
    ]


def _matched_pairs_p(own: "Evaluation", other: "Evaluation", runs: int) -> float | None:
    """Of several runs the segments are whole utterances, since what they make of the same one is not independent."""
    from asr_fed.evaluation.matched_pairs import matched_pairs_p
    from asr_fed.evaluation.statistics import paired_test

    if runs == 1:
        return paired_test(own, other).matched_pairs_p
    differences: dict[str, int] = defaultdict(int)
    for evaluation, sign in ((own, 1), (other, -1)):
        for each in evaluation.scored:
            if each.words.errors:
                differences[each.utterance.id.partition(" ")[2]] += sign * each.words.errors
    return matched_pairs_p(list(differences.values()))


def pooled(row: Row, runs: Path) -> "Evaluation":
    """What the row's runs made of the test set, together: an utterance occurs once for each run."""
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.reporting.evaluation_files import read_evaluation

    scored = []
    for place, run in enumerate(row.runs):
        folder = runs / run / "evaluation" / row.system
        if not folder.is_dir():
            raise UserError(f"{folder} is not there. Make it: python -m asr_fed.evaluation {runs / run}")
        for each in read_evaluation(folder).scored:
            utterance = dataclasses.replace(each.utterance, id=f"{place} {each.utterance.id}")
            scored.append(dataclasses.replace(each, utterance=utterance))
    return Evaluation(tuple(scored))


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
    return f"{value:.5g}" if isinstance(value, float) else value


def measured_on(summary: str) -> str:
    machine = f"{available_cores()} cores ({platform.machine()}), Python {platform.python_version()}"
    return f"{date.today():%-d %B %Y}, {machine}: {summary}."


def markdown(rows: list[Measured], measured: str) -> str:
    lines = [
        measured,
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    for row in rows:
        difference = ""
        if row.difference is not None:
            interval = _interval(row.difference_low, row.difference_high, "+.1f")
            around = interval and f" ({interval})"
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
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n" + LEGEND + "\n"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


if __name__ == "__main__":
    sys.exit(main())
