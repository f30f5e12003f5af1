"""`python -m asr_fed.compare RUN RUN ...`: runs side by side."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from asr_fed.reporting.compare import against_first, describe_run, show_comparison, write_comparison
from asr_fed.runs.summary import read_any_summary
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import make_folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m asr_fed.compare", description="Compare finished runs in one table.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories; the first is the baseline")
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"), help="folder to write")
    parser.add_argument("--wer", type=float, help="also say when a simulated fleet had reached this dev WER, percent")
    chosen = parser.parse_intermixed_args(arguments)  # options may stand between names
    return exit_status("asr_fed.compare", lambda: compare(chosen.runs, chosen.output, chosen.wer))


def compare(runs: Sequence[Path], output: Path, target_wer: float | None = None) -> None:
    """Write comparison.md, .csv, .html and .png to `output` and print the table.

    Raises UserError where a run has not ended.
    """
    summaries = [read_any_summary(run) for run in runs]
    # the command line of train_fed.py: python, train_fed.py, the experiment's file, and overrides
    words = [shlex.split(summary.command)[2:] for summary in summaries]
    described = zip(words, map(str, runs), summaries, strict=True)
    records = against_first([describe_run(*each, target_wer) for each in described])
    make_folder(output)
    write_comparison(output, records)
    show_comparison(output, records)
