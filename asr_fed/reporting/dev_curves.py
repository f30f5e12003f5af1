"""Dev WER on the way, or dev loss of pre-trainings: federations and the pooled training that they are compared with, in
one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_fed.runs.records import RoundRecord, read_epochs, read_history
from asr_fed.runs.summary import PretrainingSummary, read_any_summary
from asr_fed.training.central import EpochReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each axis: its name, and the keys of a round that are added up, with their unit.
AXES: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("rounds; epochs of pooled training", (), 1.0),
    ("passes over the clients' speech", ("audio_seconds",), 3600.0),
    ("seconds", ("round_seconds",), 1.0),
    ("MB exchanged", ("bytes_up", "bytes_down"), 1e6),
    ("hours of the fleet", ("fleet_seconds",), 3600.0),
)
COLUMNS = ("round", "passes", "seconds", "mb", "fleet_hours")  # the axes in a CSV file
FLEET = 4  # the axis that only runs with a virtual clock have
POOLED = (0, 1)  # the axes that pooled training has too: an epoch is a pass over the speech


@dataclass(frozen=True)
class Run:
    """The rounds of a run and the epochs of its pooled training, either of which may be missing.

    hours: how much speech the clients train on; 0 where nobody knows.
    pretraining: it has a loss on the dev speakers in place of a WER.
    """

    label: str
    history: Sequence[RoundRecord]
    pooled: Sequence[EpochReport]
    hours: float
    pretraining: bool = False

    @classmethod
    def read(cls, label: str, run_dir: Path) -> "Run":
        summary = read_any_summary(run_dir) if (run_dir / "summary.json").is_file() else None
        pretraining = isinstance(summary, PretrainingSummary)
        hours = summary.hours if summary else 0.0
        return cls(label, read_history(run_dir), read_epochs(run_dir, "central"), hours, pretraining)


def dev_curves(runs: Sequence[tuple[str, Path]], head: str = "") -> "Figure | None":
    """WER over rounds, passes over the clients' speech, seconds and bytes, and over the fleet's clock if a run has one;
    None if there is no curve.

    Dashed: pooled training, where a run has done that too. Pre-trainings are drawn, by their loss, where no run is
    anything else.
    """
    from matplotlib.figure import Figure

    read = [Run.read(label, run_dir) for label, run_dir in runs]
    by_loss = all(run.pretraining for run in read)
    found = [run for run in read if run.pretraining == by_loss]
    if not any(run.history or run.pooled for run in found):
        return None
    with_clock = any(points(run, FLEET)[0] for run in found)
    lines = 3 if with_clock else 2
    figure = Figure(figsize=(10, 3.75 * lines), layout="constrained")
    panels = list(figure.subplots(lines, 2).flat)
    for axes in panels[FLEET + with_clock :]:
        axes.remove()
    for number, axes in enumerate(panels[: FLEET + with_clock]):
        for index, run in enumerate(found):
            _draw(axes, run, number, f"C{index % 10}")
        axes.set_xlabel(AXES[number][0])
        axes.set_ylabel("dev loss" if by_loss else "dev WER %")
        if not by_loss:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(color="#eee")
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(4, len(names)),
        title=head or None,
        frameon=False,
        fontsize="small",
    )
    return figure


def curve_rows(runs: Sequence[tuple[str, Path]]) -> list[dict[str, Any]]:
    """The points of `dev_curves`, a row each: the run, which of its curves, where on each axis, and dev WER or loss.

    An axis that a curve is not drawn on is None.
    """
    rows: list[dict[str, Any]] = []
    for label, run_dir in runs:
        run = Run.read(label, run_dir)
        axes = [points(run, number) for number in range(len(AXES))]
        for which, curve in enumerate(("federation", "pooled")):
            for place, (number, merit) in enumerate(axes[0][which]):
                at = {
                    name: axis[which][place][0] if axis[which] else None
                    for name, axis in zip(COLUMNS, axes, strict=True)
                }
                merits = {"dev_wer": None, "dev_loss": None, "dev_loss" if run.pretraining else "dev_wer": merit}
                rows.append({"run": label, "curve": curve, **at, "round": int(number), **merits})
    return rows


def points(run: Run, number: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(x, WER or loss) of rounds and of epochs on an axis of AXES."""
    _, keys, unit = AXES[number]
    if "audio_seconds" in keys:
        unit *= run.hours or 1.0
    if any(getattr(each, key) is None for each in run.history for key in keys):
        return [], []  # it had no clock
    spent = accumulate(sum(getattr(each, key) for key in keys) / unit if keys else 1.0 for each in run.history)
    merits = [each.dev_loss if run.pretraining else each.wer for each in run.history]
    rounds = [(x, merit) for x, merit in zip(spent, merits, strict=True) if merit is not None]
    # runs of November 2026 have the loss of a pre-training under the name of the WER
    dev = [each.wer if each.dev_loss is None else each.dev_loss for each in run.pooled]
    epochs = [(float(each.epoch), merit) for each, merit in zip(run.pooled, dev, strict=True) if merit is not None]
    return rounds, epochs if number in POOLED else []


def _draw(axes: "Axes", run: Run, number: int, colour: str) -> None:
    rounds, epochs = points(run, number)
    if rounds:
        axes.plot(*zip(*rounds, strict=True), marker=".", color=colour, label=run.label)
    if epochs:
        axes.plot(*zip(*epochs, strict=True), "--", color=colour, label=f"{run.label}, pooled")
