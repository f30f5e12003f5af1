"""A carbon account for people: lines of a table, sentences, and a picture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from asr_fed.carbon.account import Account, Sums
from asr_fed.carbon.model import Band, names
from asr_fed.reporting.figures import data_uri
from asr_fed.runs.summary import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADS = ("Wh", "g CO2e", "share")
FEDERATED, CENTRALISED = "#1f6fb4", "#d2691e"
BOUNDS = "In brackets: all constants at their lower bounds, and all at their upper bounds. Shares: all at their values."


@dataclass(frozen=True)
class Line:
    """A row of the table. share: of the federation's emissions; None for what is no part of them."""

    name: str
    sums: Sums
    share: float | None


def lines(account: Account) -> list[Line]:
    """Phases, countries where there are several, the federation, the centralised run."""
    found = list(_parts(account.by_phase, account))
    if len(account.by_country) > 1:
        countries = {f"in {name.replace('_', ' ')}": sums for name, sums in account.by_country.items()}
        found += _parts(countries, account)
    found.append(Line("federated", account.total, 1.0))
    if account.centralised is not None:
        found.append(Line("centralised", account.centralised, None))
    return found


def _parts(parts: dict[str, Sums], account: Account) -> Iterator[Line]:
    for name, sums in parts.items():
        yield Line(name, sums, sums.g.value / account.total.g.value if account.total.g.value else None)


def carbon_table(account: Account) -> Table:
    table = Table(title=account.title, box=box.SIMPLE_HEAD, caption=BOUNDS, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines(account):
        style = "bold" if line.name in ("federated", "centralised") else None
        table.add_row(*_cells(line), style=style)
    return table


def describe_carbon(summary: Mapping[str, Any] | None) -> list[str]:
    """What a summary says of carbon, each in one sentence; nothing where the run has no account."""
    if summary is None:
        return []
    g, wh, ratio, per_point = Band(**summary["g"]), Band(**summary["wh"]), summary["ratio"], summary["g_per_point"]
    found = [f"Modelled: the federation emits {amount(g.value)} g CO2e ({spread(g)}) for {banded(wh)} Wh."]
    if per_point is not None:
        found.append(f"That is {amount(per_point['value'])} g ({spread(Band(**per_point))}) a point of WER gained.")
    if ratio is not None:
        low, high = f"{ratio['low']:.2f}", f"{ratio['high']:.2f}"
        found.append(f"Federated over centralised: {ratio['value']:.2f}, {low} to {high} within all bounds.")
        found.append(summary["sentence"])
    if (intensity := summary["break_even_intensity"]) is not None:
        low, high = intensity["low"], intensity["high"]
        found.append(
            f"Both emit the same where the clients' electricity has {intensity['value']:.0f} g/kWh "
            f"({low:.0f} to {'any' if high is None else f'{high:.0f}'} within all bounds) and the data centre's stays "
            "as it is."
        )
    if (measured := summary["measured_on_this_host"]) is not None:
        found.append(
            f"Measured on this host, by codecarbon, in {measured['seconds']:.0f} s: {amount(measured['wh'])} Wh, "
            f"{amount(measured['g'])} g CO2e. That is what simulating cost, and no part of the numbers above."
        )
    return found


def amount(number: float) -> str:
    """Three digits."""
    if number == 0:
        return "0"
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}" if number >= 0.001 else f"{number:.1e}"


def banded(band: Band) -> str:
    return f"{amount(band.value)} ({spread(band)})"


def spread(band: Band) -> str:
    return f"{amount(band.low)} to {amount(band.high)}"


def carbon_figure(account: Account, width: float = 9.0) -> "Figure":
    """Emissions by phase, country and in all with their bands, and added up over the rounds."""
    from matplotlib.figure import Figure

    rows = lines(account)
    several = len(account.by_round) > 1
    figure = Figure(figsize=(width, 1.0 + 0.36 * max(6, len(rows))), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _draw_lines(panels[0], rows)
    if several:
        _draw_rounds(panels[1], account)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure


def carbon_section(account: Account, summary: Facts) -> dict[str, Any]:
    """What report.html shows of an account; `summary` is the run's."""
    used = names((*account.federated, *account.central))
    return {
        "heads": HEADS,
        "bounds": BOUNDS,
        "rows": [_cells(line) for line in lines(account)],
        "sentences": describe_carbon(summary.carbon),
        "picture": data_uri(carbon_figure(account)),
        "constants": [account.constants[name] for name in sorted(used)],
    }


def _cells(line: Line) -> tuple[str, ...]:
    return line.name, banded(line.sums.wh), banded(line.sums.g), _percent(line.share)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _draw_lines(axes: "Axes", rows: list[Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, line in enumerate(rows):
        colour = CENTRALISED if line.name == "centralised" else FEDERATED
        axes.plot([line.sums.g.low, line.sums.g.high], [place, place], color=colour, linewidth=4, alpha=0.35)
        axes.plot(line.sums.g.value, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [line.name for line in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color="#eee")
    axes.set_xlabel("g CO2e, with the band of all bounds")


def _draw_rounds(axes: "Axes", account: Account) -> None:
    rounds = [0, *account.by_round]
    low, value, high = (
        [0.0, *accumulate(getattr(sums.g, name) for sums in account.by_round.values())]
        for name in ("low", "value", "high")
    )
    axes.fill_between(rounds, low, high, color=FEDERATED, alpha=0.2, linewidth=0)
    axes.plot(rounds, value, color=FEDERATED, label="federated")
    if account.centralised is not None:
        g = account.centralised.g
        axes.axhspan(g.low, g.high, color=CENTRALISED, alpha=0.15, linewidth=0)
        axes.axhline(g.value, color=CENTRALISED, linestyle="--", label="centralised")
    axes.set_xlabel("round")
    axes.set_ylabel("g CO2e so far")
    axes.set_xlim(0, rounds[-1])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#eee")
    axes.legend(frameon=False, loc="upper left")
