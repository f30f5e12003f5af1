"""Runs side by side: `python -m asr_fed.compare RUN RUN ...`, and the end of every sweep."""

import csv
import json
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asr_fed.runs.run_dir import own_system, read_summary
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of each column: its name in comparison.csv, its head in the table, and how a value is shown there.
COLUMNS = (
    ("overrides", "", "{}"),
    ("warm_start_wer", "warm start WER", "{:.2f}"),
    ("test_wer", "WER", "{:.2f}"),
    ("interval", "95 % interval", "{}"),
    ("against_first", "against the first", "{}"),
    ("test_cer", "CER", "{:.2f}"),
    ("best_round", "best round", "{}"),
    ("rounds", "rounds", "{}"),
    ("clients", "clients", "{}"),
    ("audio_hours", "hours trained", "{:.2f}"),
    ("mb_up", "MB up", "{:.1f}"),
    ("mb_down", "MB down", "{:.1f}"),
    ("seconds", "seconds", "{:.0f}"),
    ("run_dir", "run_dir", "{}"),
    ("failed", "failed", "{}"),
)
TEXT = ("overrides", "run_dir", "failed")
# What dev WER is drawn against: the axis, the keys of a round that are added up, and the unit.
AXES = (
    ("rounds", (), 1.0),
    ("seconds", ("round_seconds",), 1.0),
    ("MB exchanged", ("bytes_up", "bytes_down"), 1e6),
    ("hours of audio trained on", ("audio_seconds",), 3600.0),
)


def describe_run(overrides: Sequence[str], run_dir: str | None, result: dict[str, Any]) -> dict[str, Any]:
    """A run as one record, with the keys of COLUMNS; what does not apply to it is None.

    `audio_hours` counts the clients' speech once for each time that they trained on it. MB are 10^6 bytes.
    """
    rounds = [] if "failed" in result else read_history(run_dir)

    def total(key: str, unit: float) -> float | None:
        return sum(record[key] for record in rounds) / unit if rounds else None

    sums: dict[str, Any] = {
        "audio_hours": total("audio_seconds", 3600),
        "mb_up": total("bytes_up", 1e6),
        "mb_down": total("bytes_down", 1e6),
    }
    own = result.get("systems", {}).get(own_system(result), {})
    if own.get("wer_low") is not None:
        sums["interval"] = f"{own['wer_low']:.1f} to {own['wer_high']:.1f}"
    known = {**result, **sums, "overrides": list(overrides), "run_dir": run_dir}
    return {name: known.get(name) for name, _, _ in COLUMNS}


def read_history(run_dir: str | None) -> list[dict[str, Any]]:
    path = Path(str(run_dir)) / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write_comparison(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """comparison.md and comparison.html for people, .csv for programs, .png: WER on the way."""
    from asr_fed.reporting.figures import data_uri
    from asr_fed.reporting.page import render

    records = against_first(records)
    console = Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(comparison_table(records, box.MARKDOWN))
    with replacing(folder / "comparison.md") as path:
        path.write_text(captured.get().strip() + "\n", encoding="utf-8")
    with replacing(folder / "comparison.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name, _, _ in COLUMNS])
        writer.writeheader()
        writer.writerows(record | {"overrides": " ".join(record["overrides"])} for record in records)
    figure = plot(records)
    if figure is not None:
        with replacing(folder / "comparison.png") as path:
            figure.savefig(path, format="png", dpi=120)
    head, rows = cells(records)
    with replacing(folder / "comparison.html") as path:
        page = render("compare.html.j2", head=head, rows=rows, plot=data_uri(figure) if figure else None)
        path.write_text(page, encoding="utf-8")


def show_comparison(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 1000  # a file takes lines of any length
    console.print(comparison_table(against_first(records)))
    console.print(f"This table is in {folder}.", soft_wrap=True)


def against_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the difference of each from the first, and how sure it is, where both had the same test."""
    first, *others = records
    return [first, *(record | {"against_first": _against(record, first)} for record in others)]


def _against(record: dict[str, Any], first: dict[str, Any]) -> str | None:
    from asr_fed.evaluation.statistics import paired_test
    from asr_fed.reporting.evaluation_files import read_evaluation

    try:
        own, other = (
            read_evaluation(Path(each["run_dir"]) / "evaluation" / own_system(read_summary(Path(each["run_dir"]))))
            for each in (record, first)
        )
        found = paired_test(own, other)
    except (UserError, ValueError, TypeError):  # a run that failed or is gone, or another test set
        return None
    p = "" if found.matched_pairs_p is None else f" (p {found.matched_pairs_p:.2g})"
    return f"{found.difference:+.2f}{p}"


def comparison_table(records: Sequence[dict[str, Any]], lines: box.Box = box.SIMPLE_HEAD) -> Table:
    """A row a run; of its overrides those that not all have in common, and no column that is empty."""
    table = Table(box=lines)
    head, rows = cells(records)
    texts = {shown for name, shown, _ in COLUMNS if name in TEXT}
    for shown in head:
        table.add_column(
            shown, justify="left" if shown in texts else "right", overflow="fold", no_wrap=shown not in texts
        )
    for row in rows:
        table.add_row(*(escape(" ".join(cell.split()).replace("|", "/")) for cell in row))  # one line, and no markup
    return table


def cells(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads of the columns and the rows, as text."""
    common = set.intersection(*(set(record["overrides"]) for record in records)) if len(records) > 1 else set()
    columns = [column for column in COLUMNS if any(record[column[0]] is not None for record in records)]
    rows = []
    for record in records:
        shown = record | {"overrides": " ".join(each for each in record["overrides"] if each not in common)}
        rows.append(["" if shown[name] is None else form.format(shown[name]) for name, _, form in columns])
    return [head for _, head, _ in columns], rows


def plot(records: Sequence[dict[str, Any]]) -> "Figure | None":
    """Dev WER against rounds, seconds, bytes and hours of audio; None where no run has rounds."""
    from matplotlib.figure import Figure

    histories = [(record, read_history(record["run_dir"])) for record in records if record["failed"] is None]
    histories = [(record, history) for record, history in histories if history]
    if not histories:
        return None
    common = set.intersection(*(set(record["overrides"]) for record, _ in histories)) if len(histories) > 1 else set()
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    for axes, (label, keys, unit) in zip(figure.subplots(2, 2).flat, AXES, strict=True):
        for record, history in histories:
            spent = accumulate(sum(each[key] for key in keys) / unit if keys else 1 for each in history)
            points = [(x, each["wer"]) for x, each in zip(spent, history, strict=True) if each["wer"] is not None]
            name = " ".join(each for each in record["overrides"] if each not in common) or Path(record["run_dir"]).name
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_xlabel(label)
        axes.set_ylabel("dev WER %")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(color="#eee")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    from asr_fed.commands.compare import main

    sys.exit(main())
