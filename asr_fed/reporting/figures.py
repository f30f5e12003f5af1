"""The figures of a report, small enough for a phone, as SVG in a data URI."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asr_fed.reporting.partition_report import histogram
from asr_fed.runs.records import RoundRecord
from asr_fed.runs.summary import SystemResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"warm_start": "#8a8a8a", "federated": "#1f6fb4", "central": "#d2691e"}
SIZE = (4.2, 2.8)  # inches
DUMBBELLS = 40  # with more speakers, curves are drawn instead

# The rate of the round, and the rate by NewBob on the dev WER alone.
LEARNING_RATES = {"lr": "with the planned fall", "annealed_lr": "by the dev WER alone"}

History = Sequence[RoundRecord]


def data_uri(figure: "Figure") -> str:
    import matplotlib

    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "asr_fed"}):  # the same numbers give the same file
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"


def round_figures(history: History) -> dict[str, str]:
    """Figures by name: WER, loss, learning rate, weights, traffic and time over the rounds."""
    wer = _curve(history, {"wer": "dev speakers", "client_wer": "clients, own dev part"}, "WER %")
    buffered = any(record.staleness is not None for record in history)
    age = {"Age of the updates": _curve(history, {"staleness": ""}, "server steps, mean")} if buffered else {}
    labels = {"untranscribed": "without transcripts", "pseudo_labelled": "trained on with a hypothesis"}
    semi_supervised = any(record.untranscribed for record in history)
    return {
        "WER over rounds": wer,
        **({"Utterances without transcripts": _curve(history, labels, "utterances")} if semi_supervised else {}),
        "Clients' training loss": _curve(history, {"loss": ""}, "loss"),
        "Learning rate of the clients": _curve(history, LEARNING_RATES, "learning rate"),
        "Weight of a client: mean and standard deviation": _weights(history),
        "Traffic": _traffic(history),
        "Time": _time(history),
        **age,
    }


def pretraining_figures(history: History) -> dict[str, str]:
    """The same of a pre-training, which has a held-out loss and an accuracy in place of a WER."""
    return {
        "Loss over rounds": _curve(history, {"dev_loss": "dev speakers", "loss": "clients, in training"}, "loss"),
        "Guessed right": _curve(history, {"accuracy": "dev speakers"}, "%"),
        "Learning rate of the clients": _curve(history, LEARNING_RATES, "learning rate"),
        "Traffic": _traffic(history),
        "Time": _time(history),
    }


def interval_figure(systems: Mapping[str, SystemResult]) -> str:
    """WER of each recogniser with its interval."""
    figure, axes = new_axes((5.5, 0.6 + 0.45 * len(systems)))
    for place, (name, system) in enumerate(systems.items()):
        colour = COLOURS.get(name, "#444")
        if system.wer_low is not None and system.wer_high is not None:
            axes.plot([system.wer_low, system.wer_high], [place, place], color=colour, linewidth=3, alpha=0.45)
        axes.plot(system.wer, place, "o", color=colour, markersize=8)
    axes.set_yticks(range(len(systems)), [name.replace("_", " ") for name in systems])
    axes.set_ylim(len(systems) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("test WER % with 95 % interval over speakers")
    return data_uri(figure)


def hours_figure(seconds: Sequence[float]) -> str:
    """How much speech the clients have."""
    return data_uri(histogram(seconds, SIZE))


def speaker_figure(before: Mapping[str, float], after: Mapping[str, float], names: tuple[str, str]) -> str:
    """WER of each test speaker with two recognisers; with many speakers as two curves, each sorted by itself."""
    figure, axes = new_axes((5.5, 3.4))
    colours = [COLOURS.get(name, "#444") for name in names]
    labels = [name.replace("_", " ") for name in names]
    if len(before) <= DUMBBELLS:
        ordered = sorted(before, key=lambda speaker: before[speaker])
        for place, speaker in enumerate(ordered):
            axes.plot([place, place], [before[speaker], after[speaker]], color="#ccc", zorder=1)
        for values, colour, label in zip((before, after), colours, labels, strict=True):
            axes.plot(range(len(ordered)), [values[s] for s in ordered], "o", color=colour, label=label, zorder=2)
        axes.set_xticks([])
        axes.set_xlabel("speakers, from the best understood before")
    else:
        for values, colour, label in zip((before, after), colours, labels, strict=True):
            axes.plot(
                [100 * (i + 0.5) / len(values) for i in range(len(values))],
                sorted(values.values()),
                color=colour,
                label=label,
            )
        axes.set_xlabel("percentile of speakers")
    axes.set_ylabel("WER %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return data_uri(figure)


def new_axes(size: tuple[float, float] = SIZE) -> "tuple[Figure, Axes]":
    """An empty picture of so many inches."""
    # Imported here because it is slow. A Figure made without pyplot needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eee")
    axes.set_axisbelow(True)
    return figure, axes


def _rounds(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve(history: History, keys: Mapping[str, str], label: str) -> str:
    figure, axes = new_axes()
    for (key, name), colour in zip(keys.items(), ("#1f6fb4", "#9bbfdc"), strict=False):
        points = [(record.round, getattr(record, key)) for record in history if getattr(record, key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=name)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    if len(keys) > 1:
        axes.legend(frameon=False)
    _rounds(axes)
    return data_uri(figure)


def _weights(history: History) -> str:
    """Mean and effective number from the sums, because only sums leave a node: sum of a, and (sum of a)^2 / sum of
    a^2."""
    figure, axes = new_axes()
    rounds = [record.round for record in history]
    means = [record.weight_sum / record.clients for record in history]
    relative = [math.sqrt(max(0.0, record.clients / record.effective_clients - 1)) for record in history]
    low = [mean * (1 - deviation) for mean, deviation in zip(means, relative, strict=True)]
    high = [mean * (1 + deviation) for mean, deviation in zip(means, relative, strict=True)]
    axes.fill_between(rounds, low, high, color="#1f6fb4", alpha=0.25, linewidth=0)
    axes.plot(rounds, means, marker=".", color="#1f6fb4")
    axes.set_ylabel("weight a")
    axes.set_ylim(bottom=0)
    _rounds(axes)
    return data_uri(figure)


def _traffic(history: History) -> str:
    figure, axes = new_axes()
    rounds = [record.round for record in history]
    for key, label, colour in (("bytes_up", "up", "#1f6fb4"), ("bytes_down", "down", "#9bbfdc")):
        axes.plot(rounds, [getattr(record, key) / 1e6 for record in history], marker=".", color=colour, label=label)
    axes.set_ylabel("MB a round")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _rounds(axes)
    return data_uri(figure)


def _time(history: History) -> str:
    figure, axes = new_axes()
    rounds = [record.round for record in history]
    clients = [record.exchange_seconds for record in history]
    server = [record.aggregate_seconds + record.held_out_seconds for record in history]
    rest = [max(0.0, record.round_seconds - a - b) for record, a, b in zip(history, clients, server, strict=True)]
    axes.stackplot(
        rounds,
        clients,
        server,
        rest,
        labels=["clients", "aggregation and held-out", "evaluation, checkpoint"],
        colors=["#1f6fb4", "#9bbfdc", "#d9d9d9"],
    )
    axes.set_ylabel("seconds a round")
    axes.legend(frameon=False, fontsize="small")
    _rounds(axes)
    return data_uri(figure)
