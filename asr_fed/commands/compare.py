"""`python -m asr_fed.compare RUN RUN ...`: runs side by side."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from asr_fed.reporting.compare import against_first, describe_run, show_comparison, write_comparison
from asr_fed.runs.summary import read_any_summary
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import make_folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m asr_fed.compare", description="Compare finished runs in one table.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="run directories, with names of your own; the first is the baseline",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"), help="folder to write")
    parser.add_argument("--wer", type=float, help="also say when a simulated fleet had reached this dev WER, percent")
    chosen = parser.parse_intermixed_args(arguments)  # options may stand between names
    names, runs = zip(*map(named_run, chosen.runs), strict=True)
    return exit_status("asr_fed.compare", lambda: compare(runs, chosen.output, chosen.wer, names))


def compare(
    runs: Sequence[Path], output: Path, target_wer: float | None = None, names: Sequence[str | None] | None = None
) -> None:
    """Write comparison.md, .csv, .html and .png to `output` and print the table.

    Args:
        names: what the user calls each run; None: the run is called by its command line.

    Raises UserError where a run has not ended, or two have the same name.
    """
    names = names or [None] * len(runs)
    if twice := sorted({name for name in names if name is not None and names.count(name) > 1}):
        raise UserError(f"Two runs are called {', '.join(twice)}: give each a name of its own.")
    summaries = [read_any_summary(run) for run in runs]
    # the command line of train_fed.py: python, train_fed.py, the experiment's file, and overrides
    words = [shlex.split(summary.command)[2:] for summary in summaries]
    records = [
        describe_run(overrides, str(run), summary, target_wer, name)
        for overrides, run, summary, name in zip(words, runs, summaries, names, strict=True)
    ]
    records = against_first(records)
    make_folder(output)
    write_comparison(output, records)
    show_comparison(output, records)


def named_run(text: str) -> tuple[str | None, Path]:
    """NAME=RUN in two; the name is None where it is not there, or where it is part of the folder's own name."""
    name, equals, run = text.partition("=")
    return (None, Path(text)) if not equals or not run or Path(text).exists() else (name, Path(run))
