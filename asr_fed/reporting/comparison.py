"""How runs look side by side: short names, two narrow tables, and what each run was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from asr_fed.carbon.model import Band
from asr_fed.reporting.carbon import banded

Record = Mapping[str, Any]  # a run as `asr_fed.reporting.compare.describe_run` has it

LONGEST = 28  # characters of a run's name in a table
NOT_ITS_NAME = ("run_dir", "resume")  # keys that tell runs apart and say nothing of them


def _number(key: str, form: str) -> Callable[[Record], str]:
    return lambda record: "" if record[key] is None else format(record[key], form)


def _amount(key: str, form: str) -> Callable[[Record], str]:
    """A number whose decimals say nothing beside its thousands."""
    return lambda record: _number(key, ".0f" if record[key] is not None and record[key] >= 1000 else form)(record)


def _interval(record: Record) -> str:
    return "" if record["wer_low"] is None else f"{record['wer_low']:.1f} to {record['wer_high']:.1f}"


def _to_scratch(record: Record) -> str:
    known = record["to_scratch_low"] is not None
    return f"{record['to_scratch_low']:+.1f} to {record['to_scratch_high']:+.1f}" if known else ""


def _band(key: str) -> Callable[[Record], str]:
    """A number that is modelled, with its bounds."""

    def cell(record: Record) -> str:
        low, value, high = (record[f"{key}{end}"] for end in ("_low", "", "_high"))
        return "" if value is None else banded(Band(low, value, high))

    return cell


def _best(record: Record) -> str:
    known = record["rounds"] and record["best_round"] is not None
    return f"{record['best_round']} of {record['rounds']}" if known else ""


def _target(record: Record) -> str:
    if record["target_wer"] is None:
        return ""
    return _amount("fleet_hours_to_target", ".3g")(record) or "never"


# Of each table: heads, and what stands below them. They fit 80 columns. A space that cannot break is \u00a0.
RESULT: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("WER\u00a0%", _number("test_wer", ".2f")),
    ("scratch WER\u00a0%", _number("scratch_wer", ".2f")),
    ("95\u00a0% interval", _interval),
    ("to first", _number("difference", "+.2f")),
    ("p speakers", _number("paired_t_p", ".2g")),
    ("p segments", _number("matched_pairs_p", ".2g")),
    ("CER\u00a0%", _number("test_cer", ".2f")),
)
PRETRAINING: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("guessed", lambda record: record["task"] or ""),  # losses of different ones cannot be compared
    ("loss", _number("test_loss", ".3f")),
    ("right\u00a0%", _number("test_accuracy", ".2f")),
    ("between\u00a0%", _number("between", ".1f")),
    ("rank", _number("effective_rank", ".1f")),
    ("to scratch", _number("to_scratch", "+.2f")),
    ("95\u00a0% interval", _to_scratch),
    ("p speakers", _number("to_scratch_p", ".2g")),
)
COST: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("start WER\u00a0%", _number("warm_start_wer", ".2f")),
    ("best round", _best),
    ("clients", _number("clients", "")),
    ("effective clients", _amount("effective_clients", ".1f")),
    ("hours", _amount("audio_hours", ".2f")),
    ("MB up", _amount("mb_up", ".1f")),
    ("MB down", _amount("mb_down", ".1f")),
    ("seconds", _number("seconds", ".0f")),
)
TIME: tuple[tuple[str, Callable[[Record], str]], ...] = (  # of runs with a simulated fleet, as the next two
    ("fleet\u00a0hours", _amount("fleet_hours", ".3g")),
    ("to best WER", _amount("fleet_hours_to_best", ".3g")),
    ("to target", _target),
    ("stragglers", _number("stragglers", ".0%")),
    ("waiting", _number("waiting", ".0%")),
)
WORK: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("dropped", _number("dropped", ".0%")),
    ("partial", _number("partial", ".0%")),
    ("lost computing", _number("lost_compute", ".0%")),
    ("clients' MB\u00a0up", _amount("fleet_mb_up", ".1f")),
    ("clients' MB\u00a0down", _amount("fleet_mb_down", ".1f")),
)
HEARD: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("least heard", lambda record: record["least_heard"] or ""),
    ("of its part", _number("least_heard_part", ".0%")),
    ("its WER\u00a0%", _number("least_heard_wer", ".2f")),
)
CARBON: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("Wh", _band("wh")),
    ("g\u00a0CO2e", _band("g_co2e")),
)
VERDICT: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("times central", _band("of_central")),
    ("g\u00a0CO2e a point", _band("g_per_point")),
)


@dataclass(frozen=True)
class Cells:
    """A table as text: heads, then a row a run."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """labels: a name of each run, which the rows begin with; runs: what each was, by these; notes: what to know."""

    tables: list[Cells]
    labels: list[str]
    runs: list[tuple[str, str]]
    notes: list[str]


def lay_out(records: Sequence[Record]) -> Comparison:
    """The records as they are shown. A column without a value is left out, and a table without a column."""
    head, labels = names_of(records)
    tables = []
    for columns in (RESULT, PRETRAINING, COST, TIME, WORK, HEARD, CARBON, VERDICT):
        shown = [(name, column) for name, column in columns if any(column(record) for record in records)]
        if shown:
            rows = [
                [label, *(column(record) for _, column in shown)] for label, record in zip(labels, records, strict=True)
            ]
            tables.append(Cells([head, *(name for name, _ in shown)], rows))
    own = _differing([record["overrides"] for record in records])
    runs = []
    for label, words, record in zip(labels, own, records, strict=True):
        failed = None if record["failed"] is None else f"failed: {' '.join(record['failed'].split())}"
        parts = [str(record["run_dir"]), " ".join(words), failed]
        runs.append((label, "; ".join(part for part in parts if part)))
    return Comparison(tables, labels, runs, _notes(labels, records))


def names_of(records: Sequence[Record]) -> tuple[str, list[str]]:
    """The head of the column of names, and a name of each run: the user's, or what its command line has of its own."""
    head, labels = run_labels([record["overrides"] for record in records])
    named = [record["name"] or label for record, label in zip(records, labels, strict=True)]
    return head if named == labels else "", named


def run_labels(overrides: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """The head of the column of names, and a name of each run, of at most LONGEST characters.

    It is what of its command line not all runs have. Keys go into the head where they are the same for all, else only
    those of numbers and the like are said. A run with nothing of its own, or too much, is named by its number.
    """
    words = _shortened([[_key_and_value(word) for word in own] for own in _differing(overrides)])
    keys = [[key for key, _ in own] for own in words]
    if keys[0] and all(each == keys[0] for each in keys):
        head, texts = ", ".join(keys[0]), [", ".join(value for _, value in own) for own in words]
    else:
        head, texts = "", [" ".join(_said(key, value) for key, value in own) for own in words]
    return head, [
        text if 0 < len(text) <= LONGEST and texts.count(text) == 1 else f"run {number}"
        for number, text in enumerate(texts, 1)
    ]


def _differing(overrides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each run the words that not all have; of a single run all."""
    own = [[word for word in each if word.partition("=")[0] not in NOT_ITS_NAME] for each in overrides]
    common = set.intersection(*map(set, own)) if len(own) > 1 else set()
    return [[word for word in each if word not in common] for each in own]


def _said(key: str, value: str) -> str:
    """A name says by itself what it is of, a number does not."""
    return value if value.isidentifier() and value not in ("true", "false", "null") else f"{key}={value}"


def _key_and_value(word: str) -> tuple[str, str]:
    """Of the experiment's file its name."""
    key, equals, value = word.partition("=")
    return (key, value) if equals else ("experiment", Path(word).stem)


def _shortened(words: list[list[tuple[str, str]]]) -> list[list[tuple[str, str]]]:
    """With the last part of each dotted key, unless two would then be the same."""
    keys = {key for own in words for key, _ in own}
    if len({_last_part(key) for key in keys}) < len(keys):
        return words
    return [[(_last_part(key), value) for key, value in own] for own in words]


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _notes(labels: Sequence[str], records: Sequence[Record]) -> list[str]:
    notes = []
    decoders = {record["decoder"] for record in records if record["decoder"] is not None}
    if len(decoders) > 1:
        by_run = (
            f"{label} {record['decoder']}" for label, record in zip(labels, records, strict=True) if record["decoder"]
        )
        notes.append(f"Not decoded alike, so that WERs differ for that too: {', '.join(by_run)}.")
    if targets := {record["target_wer"] for record in records} - {None}:
        notes.append(f"To target: hours of the fleet until the dev WER was first no higher than {targets.pop():g} %.")
    if any(record["stragglers"] is not None for record in records):
        notes.append(
            "Stragglers: of the asked clients, those that need over twice the median time, come too late or are cut "
            "short. Clients' MB: what each sent and received, that of the late ones included."
        )
    if any(record["wh"] is not None for record in records):
        notes.append(
            "Wh and g CO2e are modelled; in brackets: with the bounds of all constants. Times central: over the "
            "emissions of the centralised run. A point: of WER below the warm start's."
        )
    if any(record["least_heard"] is not None for record in records):
        notes.append(
            "Least heard: the group of clients that has least of all work that counted, for its number; of its part: "
            "in percent of what its number would give it. The other groups are in comparison_heard.csv."
        )
    first, *others = zip(labels, records, strict=True)
    with_words = [(label, record) for label, record in others if record["test_wer"] is not None]
    untested = [label for label, record in with_words if record["difference"] is None]
    if untested and first[1]["test_wer"] is not None:
        notes.append(f"No test of {', '.join(untested)} against the first: not the same test utterances.")
    return notes


def terminal_table(cells: Cells) -> Table:
    """Heads break between words, names of runs anywhere, numbers never."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, head in enumerate(cells.head):
        if place == 0:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in cells.rows:
        table.add_row(*row)
    return table


def markdown(comparison: Comparison) -> str:
    lines = []
    for cells in comparison.tables:
        lines += [_row(cells.head), "|---" + "|---:" * (len(cells.head) - 1) + "|", *map(_row, cells.rows), ""]
    lines += [f"- {label}: {what}" for label, what in comparison.runs]
    return "\n".join([*lines, *(f"\n{note}" for note in comparison.notes)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
