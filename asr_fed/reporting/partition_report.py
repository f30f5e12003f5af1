"""How unequal the clients are, as a picture."""

from collections.abc import Sequence
from math import fsum, isqrt
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from asr_fed.data.spread import gini
from asr_fed.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_histogram(path: str | Path, seconds: Sequence[float]) -> None:
    """Write a PNG: how many clients hold how much audio; `seconds` has one positive entry a client."""
    with replacing(Path(path)) as temporary:
        histogram(seconds, (7, 4)).savefig(temporary, format="png", dpi=120)


def histogram(seconds: Sequence[float], size: tuple[float, float]) -> "Figure":
    """The same as a figure of `size` inches."""
    # Imported here because it is slow. A Figure made without pyplot draws with Agg and needs no display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    scale, unit = (3600, "hours") if max(seconds) >= 3600 else (60, "minutes")
    amounts = [value / scale for value in seconds]
    low, middle, high = min(amounts), median(amounts), max(amounts)
    # A few talkative speakers would press everybody else into the first bar of a linear axis.
    logarithmic = high > 20 * middle
    bins = min(40, max(5, 2 * isqrt(len(amounts))))
    edges: list[float] | int = bins
    if logarithmic:
        edges = [low * (high / low) ** (i / bins) for i in range(bins)] + [high]

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.hist(amounts, bins=edges, color="#4c72b0", edgecolor="white", linewidth=0.5)
    axes.axvline(middle, color="#c44e52", linestyle="--", label=f"median {middle:.3g} {unit}")
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{unit} of audio per client")
    axes.set_ylabel("clients")
    axes.set_title(f"{len(amounts)} clients, {fsum(seconds) / 3600:.3g} hours, Gini {gini(seconds):.2f}")
    axes.legend()
    return figure
