"""A fleet's time for people: sentences, pictures, and who is heard."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from asr_fed.reporting.figures import data_uri, new_axes
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.record import ClientTime, RoundTime, read_client_times, read_round_times

MANY = 60  # clients of a round that have a bar each
PHASES = {"download_s": "#9bbfdc", "compute_s": "#1f6fb4", "upload_s": "#d2691e"}
UNITS = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
ALIKE = 3.0  # times the parameters
SHARES = ("stragglers", "dropped", "partial", "lost_compute", "waiting")  # of a summary, in a comparison
LATE, IDLE = "#b00020", "#e4e4e4"


def describe_fleet(summary: Mapping[str, Any] | None) -> list[str]:
    """What a summary says of its fleet, each in a line; nothing where the run had no clock."""
    if summary is None:
        return []
    best, wer = summary["best_hours"], summary.get("best_wer")
    merit = "the lowest held-out loss" if wer is None else f"dev WER {wer:.2f}"
    reached = "" if best is None else f", {merit} after {duration(best)}"
    found = [
        f"Fleet of {summary['devices']} on {summary['network']}: {duration(summary['hours'])} for {summary['rounds']} "
        f"{'server steps' if summary['asynchronous'] else 'rounds'}{reached}."
    ]
    parts = [f"{summary['arrived']} of {summary['asked']} asked clients arrived"]
    if summary["partial"]:
        parts.append(f"{summary['partial']:.0%} of them with part of the work")
    if summary["lost_compute"]:
        parts.append(f"{summary['lost_compute']:.0%} of the computation was lost")
    if summary["stragglers"]:
        parts.append(f"{summary['stragglers']:.0%} of those asked were stragglers")
    if summary["asynchronous"]:
        parts.append(f"updates were {summary['staleness']:.1f} steps old")
    else:
        parts.append(f"clients waited {summary['waiting']:.0%} of their time for slower ones")
    if (remark := describe_size(summary["model_size"])) is not None:
        found.insert(1, remark)
    found.append(f"{'; '.join(parts)}; {size(summary['gb_down'])} down, {size(summary['gb_up'])} up.")
    return found


def describe_size(size: float) -> str | None:
    """What to know of a model that has `size` times the parameters of the reference's; None where they are about alike.

    Computing is scaled in proportion, which a GPU that waits for its kernels is not: it was 50 times off there.
    """
    if 1 / ALIKE <= size <= ALIKE:
        return None
    return (
        f"The model has {size:.3g} times the parameters of the one of simulation.reference. Times of computing are "
        "scaled by that, which is a guess, on a GPU a bad one. Measure yours: python -m asr_fed.simulation.measure."
    )


def fleet_numbers(
    summary: Mapping[str, Any] | None, history: Sequence[RoundRecord], target_wer: float | None = None
) -> dict[str, Any]:
    """A fleet's time in a comparison, nothing where the run had no clock.

    fleet_hours_to_target: when the dev WER, percent, was first no higher than `target_wer`; None where it never was.
    least_heard: the group of clients that has least of the work that counted for its number, and `least_heard_part` of
        what its number would give it.
    """
    if summary is None:
        return {}
    numbers = {name: summary.get(name) for name in SHARES}
    numbers |= {"fleet_hours": summary["hours"], "fleet_hours_to_best": summary["best_hours"]}
    numbers |= {f"fleet_mb_{way}": 1000 * summary[f"gb_{way}"] for way in ("up", "down")}
    if target_wer is not None:
        ends = zip(accumulate(each.fleet_seconds or 0.0 for each in history), history, strict=True)
        reached = (end / UNITS["hours"] for end, each in ends if each.wer is not None and each.wer <= target_wer)
        numbers |= {"target_wer": target_wer, "fleet_hours_to_target": next(reached, None)}
    if summary["heard"]:
        least = min(summary["heard"], key=lambda row: row["counted"] / row["fair"])
        part = least["counted"] / least["fair"]
        numbers |= {"least_heard": least["group"], "least_heard_part": part, "least_heard_wer": least["wer"]}
    return numbers


def fleet_section(
    run_dir: Path, summary: Mapping[str, Any] | None, history: Sequence[RoundRecord]
) -> dict[str, Any] | None:
    """What report.html shows of a fleet; None where the run had no clock."""
    if summary is None or not summary["rounds"]:
        return None
    figures = time_figures(history, read_client_times(run_dir), read_round_times(run_dir))
    return {"lines": describe_fleet(summary), "figures": figures, "heard": summary["heard"]}


def duration(hours: float) -> str:
    """`5.3 h`, `12 min`, `40 s`."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def size(gigabytes: float) -> str:
    """`4.25 GB`, `310 MB`."""
    return f"{gigabytes:.3g} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.3g} MB"


def time_figures(
    history: Sequence[RoundRecord], clients: Sequence[ClientTime], rounds: Sequence[RoundTime]
) -> dict[str, str]:
    """By what they show: WER, or held-out loss, over the hours of the fleet, and who waited for whom in the round of
    median length."""
    recognises = any(each.wer is not None for each in history)
    merit, name, label = ("wer", "WER", "dev WER %") if recognises else ("dev_loss", "Held-out loss", "held-out loss")
    shown = sorted(rounds, key=lambda each: (each.end_s - each.begin_s, each.round))[len(rounds) // 2]
    return {
        f"{name} over the time of the fleet": _time_to(merit, label, history),
        f"Round {shown.round}: who waited for whom": _timeline(
            [each for each in clients if each.round == shown.round], shown
        ),
    }


def _time_to(merit: str, label: str, history: Sequence[RoundRecord]) -> str:
    figure, axes = new_axes()
    seconds = list(accumulate(each.fleet_seconds or 0.0 for each in history))
    unit = next(unit for unit, size in UNITS.items() if seconds[-1] >= 2 * size or size == 1)
    values = [getattr(each, merit) for each in history]
    points = [(at / UNITS[unit], value) for at, value in zip(seconds, values, strict=True) if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", color=PHASES["compute_s"])
    axes.set_xlabel(f"{unit} of the fleet")
    axes.locator_params("x", nbins=5)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return data_uri(figure)


def _timeline(clients: Sequence[ClientTime], shown: RoundTime) -> str:
    """A bar for each client, the first to answer on top; of many clients as many as have room."""
    ordered = sorted(clients, key=lambda each: (each.start_s + each.busy_s, each.client))
    if len(ordered) > MANY:
        ordered = [ordered[round(i * (len(ordered) - 1) / (MANY - 1))] for i in range(MANY)]
    figure, axes = new_axes((5.5, 1.2 + 0.16 * max(8, len(ordered))))
    labelled: set[str] = set()

    def bar(place: int, left: float, width: float, colour: str, label: str) -> None:
        axes.barh(place, width, left=left, color=colour, label=None if label in labelled else label, height=0.8)
        labelled.add(label)

    for place, each in enumerate(ordered):
        at = each.start_s - shown.begin_s
        for phase, colour in PHASES.items():
            bar(place, at, getattr(each, phase), colour, phase.removesuffix("_s"))
            at += getattr(each, phase)
        if each.idle_s > 0:
            bar(place, at, each.idle_s, IDLE, "waits")
        if not each.arrived:
            axes.plot(at, place, "x", color=LATE, markersize=5, label=None if "lost" in labelled else "too late")
            labelled.add("lost")
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_ylabel(f"{len(clients)} clients")
    axes.set_xlabel("seconds since the round before ended")
    figure.legend(loc="outside upper center", frameon=False, fontsize="small", ncols=5)
    return data_uri(figure)
