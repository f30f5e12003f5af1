"""Comparison of runs: `python -m asr_fed.compare RUN RUN ...`, also at the end of every sweep."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from asr_fed.reporting.comparison import lay_out, markdown, names_of, terminal_table
from asr_fed.reporting.dev_curves import curve_rows, dev_curves
from asr_fed.reporting.simulation import fleet_numbers
from asr_fed.runs.records import read_history
from asr_fed.runs.summary import (
    FINE_TUNED,
    FROM_SCRATCH,
    PretrainingSummary,
    RunSummary,
    read_any_summary,
)
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_csv

if TYPE_CHECKING:
    from asr_fed.evaluation.evaluate import Evaluation

# Fields of a carbon account in a summary, by their names here; each has a band.
MODELLED = {"wh": "wh", "g_co2e": "g", "of_central": "ratio", "g_per_point": "g_per_point"}
BAND = {"": "value", "_low": "low", "_high": "high"}
# Fields of a run's record, which are the columns of comparison.csv.
FIELDS = (
    *("name", "overrides", "warm_start_wer", "test_wer", "wer_low", "wer_high"),
    *("difference", "difference_low", "difference_high", "paired_t_p", "matched_pairs_p"),  # from the first run
    *("scratch_wer", "to_scratch", "to_scratch_low", "to_scratch_high", "to_scratch_p"),  # after a pre-training
    *("task", "test_loss", "test_accuracy", "between", "effective_rank"),  # of a pre-training
    *("test_cer", "decoder", "best_round", "rounds", "clients", "effective_clients"),
    *("audio_hours", "mb_up", "mb_down", "seconds"),
    *("fleet_hours", "fleet_hours_to_best", "target_wer", "fleet_hours_to_target"),  # of a simulated fleet
    *("stragglers", "dropped", "partial", "lost_compute", "waiting", "fleet_mb_up", "fleet_mb_down"),
    *("least_heard", "least_heard_part", "least_heard_wer"),
    *(f"{name}{end}" for name in MODELLED for end in BAND),
    *("run_dir", "failed"),
)
HEARD, CURVES = "comparison_heard.csv", "comparison_curves.csv"


def describe_run(
    overrides: Sequence[str],
    run_dir: str | None,
    result: RunSummary | PretrainingSummary | str,
    target_wer: float | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """A run as one record, with the keys of FIELDS; what does not apply to it is None.

    `effective_clients` is the mean over the rounds. `audio_hours` counts the clients' speech once for each time that
    they trained on it. MB are 10^6 bytes.

    Args:
        result: the summary of the run, or why it failed.
        target_wer: the dev WER, percent, whose time is asked for.
        name: what the user calls the run; None: what its command line has of its own.
    """
    about = {"name": name, "overrides": list(overrides), "run_dir": run_dir}
    if isinstance(result, str):
        return {name: (about | {"failed": result}).get(name) for name in FIELDS}
    rounds = [] if run_dir is None else read_history(Path(run_dir))

    def total(key: str, unit: float) -> float | None:
        return sum(getattr(record, key) for record in rounds) / unit if rounds else None

    sums: dict[str, Any] = {
        "effective_clients": sum(record.effective_clients for record in rounds) / len(rounds) if rounds else None,
        "audio_hours": total("audio_seconds", 3600),
        "mb_up": total("bytes_up", 1e6),
        "mb_down": total("bytes_down", 1e6),
    }
    sums |= fleet_numbers(result.simulation, rounds, target_wer) | _carbon(result.carbon)
    if isinstance(result, PretrainingSummary):
        # Its `difference` is from the recogniser from scratch, not from the first run.
        known = {**vars(result.systems[result.own]), **vars(result), **sums, **about, **_recognition(result)}
        known["difference"] = None
        return {name: known.get(name) for name in FIELDS}
    own = result.systems.get(result.own)
    interval = {"wer_low": own and own.wer_low, "wer_high": own and own.wer_high}
    known = {**vars(result), **sums, **interval, **about}
    return {name: known.get(name) for name in FIELDS}


def _recognition(result: PretrainingSummary) -> dict[str, Any]:
    """The WER is that of the recogniser that began with the encoder."""
    if not result.recognition:
        return {}
    tuned, against = result.recognition[FINE_TUNED], result.difference
    return {
        "test_wer": tuned.wer,
        "test_cer": tuned.cer,
        "wer_low": tuned.wer_low,
        "wer_high": tuned.wer_high,
        "scratch_wer": result.recognition[FROM_SCRATCH].wer,
        "to_scratch": against and against.difference,
        "to_scratch_low": against and against.interval and against.interval.low,
        "to_scratch_high": against and against.interval and against.interval.high,
        "to_scratch_p": against and against.paired_t_p,
    }


def _carbon(account: dict[str, Any] | None) -> dict[str, Any]:
    if account is None:
        return {}
    found = ((name, account[of]) for name, of in MODELLED.items())
    return {f"{name}{end}": band[of] for name, band in found if band is not None for end, of in BAND.items()}


def write_comparison(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """comparison.md and comparison.html for people, .csv for programs, .png: curves of the dev speakers.

    CURVES has the points of that picture. HEARD has, for runs with a simulated fleet, a row for each group of clients.
    """
    from asr_fed.reporting.figures import data_uri
    from asr_fed.reporting.page import render

    comparison = lay_out(records)
    with replacing(folder / "comparison.md") as path:
        path.write_text(markdown(comparison), encoding="utf-8")
    with replacing(folder / "comparison.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(record | {"overrides": " ".join(record["overrides"])} for record in records)
    if heard := [{"run": label} | row for label, row in heard_in(comparison.labels, records)]:
        write_csv(folder / HEARD, heard)
    head, runs = _ended(records)
    if curves := curve_rows(runs):
        write_csv(folder / CURVES, curves)
    figure = dev_curves(runs, head)
    if figure is not None:
        with replacing(folder / "comparison.png") as path:
            figure.savefig(path, format="png", dpi=120)
    with replacing(folder / "comparison.html") as path:
        page = render("compare.html.j2", comparison=comparison, plot=data_uri(figure) if figure else None)
        path.write_text(page, encoding="utf-8")


def show_comparison(folder: Path, records: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    console = console or Console(highlight=False, markup=False, emoji=False)
    comparison = lay_out(records)
    for cells in comparison.tables:
        console.print(terminal_table(cells))
    for label, what in comparison.runs:
        console.print(f"{label}: {what}", soft_wrap=True)
    for note in (*comparison.notes, f"This comparison is in {folder}."):
        console.print(note, soft_wrap=True)


def against_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, with the difference of each run from the first and its interval, if both have the same test set."""
    first, *others = records
    return [first, *(record | _against(record, first) for record in others)]


def _against(record: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    from asr_fed.evaluation.statistics import paired_test

    try:
        found = paired_test(_evaluation(record), _evaluation(first))
    except (UserError, ValueError, TypeError):  # a failed or missing run, or another test set
        return {}
    return {
        "difference": found.difference,
        "difference_low": found.interval and found.interval.low,
        "difference_high": found.interval and found.interval.high,
        "paired_t_p": found.paired_t_p,
        "matched_pairs_p": found.matched_pairs_p,
    }


def _evaluation(record: dict[str, Any]) -> "Evaluation":
    from asr_fed.reporting.evaluation_files import read_evaluation

    run_dir = Path(record["run_dir"])
    return read_evaluation(run_dir / "evaluation" / read_any_summary(run_dir).recogniser)


def heard_in(labels: Sequence[str], records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The groups of clients of each run, with its label (see `asr_fed.simulation.heard.Heard`)."""
    for label, record in zip(labels, records, strict=True):
        if record["least_heard"] is not None:
            for row in (read_any_summary(Path(record["run_dir"])).simulation or {})["heard"]:
                yield label, row


def _ended(records: Sequence[dict[str, Any]]) -> tuple[str, list[tuple[str, Path]]]:
    """The head of their names, and name and folder of each run that has ended."""
    head, labels = names_of(records)
    named = zip(labels, records, strict=True)
    return head, [(label, Path(record["run_dir"])) for label, record in named if record["failed"] is None]
