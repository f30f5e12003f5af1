"""The runs of a sweep (`--multirun`) side by side: one table at its end."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asr_fed.files import replacing

# Of each column: its name in comparison.csv, its head in the table, and how a value is shown there.
COLUMNS = (
    ("overrides", "", "{}"),
    ("warm_start_wer", "warm start WER", "{:.2f}"),
    ("test_wer", "WER", "{:.2f}"),
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


class Comparison(Callback):
    """Hydra's hooks. Each run leaves a record in the sweep's folder, in whatever process a launcher has it run."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the record of a run: `job_return.return_value` is its summary, or says why it `failed`."""
        if config.hydra.mode is RunMode.MULTIRUN and job_return.cfg is not None:
            run_dir = OmegaConf.select(job_return.cfg, "run_dir")
            record = describe_run(job_return.overrides or (), run_dir, job_return.return_value)
            with replacing(Path(config.hydra.sweep.dir) / f"{config.hydra.job.num}.json") as path:
                path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write comparison.md and comparison.csv; exits with 2 where a run has failed."""
        folder = Path(config.hydra.sweep.dir)
        files = sorted((path for path in folder.glob("*.json") if path.stem.isdigit()), key=lambda path: int(path.stem))
        records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        if not records:
            return
        write_comparison(folder, records)
        console = Console(highlight=False)
        console.width = console.width if console.is_terminal else 1000  # a file takes lines of any length
        console.print(comparison_table(records))
        console.print(f"This table is in {folder}.", soft_wrap=True)
        if any(record["failed"] for record in records):
            sys.exit(2)


def describe_run(overrides: Sequence[str], run_dir: str | None, result: dict[str, Any]) -> dict[str, Any]:
    """A run as one record, with the keys of COLUMNS; what does not apply to it is None.

    `audio_hours` counts the clients' speech once for each time that they trained on it. MB are 10^6 bytes.
    """
    rounds = []
    if "failed" not in result and (history := Path(str(run_dir)) / "history.jsonl").is_file():
        rounds = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]

    def total(key: str, unit: float) -> float | None:
        return sum(record[key] for record in rounds) / unit if rounds else None

    sums = {
        "audio_hours": total("audio_seconds", 3600),
        "mb_up": total("bytes_up", 1e6),
        "mb_down": total("bytes_down", 1e6),
    }
    known = {**result, **sums, "overrides": list(overrides), "run_dir": run_dir}
    return {name: known.get(name) for name, _, _ in COLUMNS}


def write_comparison(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """comparison.md for people and comparison.csv for programs."""
    console = Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(comparison_table(records, box.MARKDOWN))
    with replacing(folder / "comparison.md") as path:
        path.write_text(captured.get().strip() + "\n", encoding="utf-8")
    with replacing(folder / "comparison.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [name for name, _, _ in COLUMNS])
        writer.writeheader()
        writer.writerows(record | {"overrides": " ".join(record["overrides"])} for record in records)


def comparison_table(records: Sequence[dict[str, Any]], lines: box.Box = box.SIMPLE_HEAD) -> Table:
    """A row a run; of its overrides those that not all have in common, and no column that is empty."""
    common = set.intersection(*(set(record["overrides"]) for record in records)) if len(records) > 1 else set()
    columns = [column for column in COLUMNS if any(record[column[0]] is not None for record in records)]
    table = Table(box=lines)
    for name, head, _ in columns:
        text = name in TEXT
        table.add_column(head, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for record in records:
        shown = record | {"overrides": " ".join(each for each in record["overrides"] if each not in common)}
        table.add_row(*("" if shown[name] is None else _cell(form.format(shown[name])) for name, _, form in columns))
    return table


def _cell(text: str) -> str:
    """One line without meaning to rich or Markdown."""
    return escape(" ".join(text.split()).replace("|", "/"))
