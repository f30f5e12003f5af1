"""Runs side by side fit a terminal, a page and a file, whatever they are called."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from asr_fed.reporting.compare import BAND, FIELDS, MODELLED, show_comparison, write_comparison
from asr_fed.reporting.comparison import lay_out, markdown, run_labels

LINE = "hparams/an4.yaml data.root=/mnt/corpora/an4_common_voice/en seed=1"
NUMBERS = {
    **{"warm_start_wer": 121.39, "test_wer": 115.48, "wer_low": 102.04, "wer_high": 119.22, "test_cer": 106.8},
    **{"difference": -13.15, "paired_t_p": 0.00012, "matched_pairs_p": 1.2e-15, "best_round": 158, "rounds": 160},
    **{
        "clients": 2000,
        "effective_clients": 1873.4,
        "audio_hours": 1234.56,
        "mb_up": 123456.7,
        "mb_down": 61728.4,
        "seconds": 123456.0,
    },
}
SHOWN = "115.48|102.0 to 119.2|-13.15|0.00012|1.2e-15|106.80|121.39|158 of 160|2000|1235|123457|61728|123456"
OF_PRETRAINING = {
    **{"scratch_wer": 118.25, "to_scratch": -2.77, "to_scratch_low": -102.4, "to_scratch_high": 10.2},
    **{"to_scratch_p": 0.0034, "test_loss": 3.125, "test_accuracy": 27.25},
}
OF_PRETRAINING_SHOWN = "118.25|-2.77|-102.4 to +10.2|0.0034|3.125|27.25"


def record(overrides: str, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(FIELDS) | {"overrides": overrides.split(), "run_dir": "outputs/r"} | values


EVERYTHING = NUMBERS | {
    **{"fleet_hours": 12345.6, "fleet_hours_to_best": 9876.5, "target_wer": 20.0, "fleet_hours_to_target": 1234.5},
    **{"stragglers": 0.25, "waiting": 0.25, "dropped": 0.25, "partial": 0.25, "lost_compute": 0.25},
    **{"fleet_mb_up": 123456.7, "fleet_mb_down": 123456.7},
    **{f"{name}{end}": 12345.6 for name in MODELLED for end in BAND},
}


def three(**values: Any) -> list[dict[str, Any]]:
    return [
        record(f"{LINE} weighting={weighting} run_dir=outputs/an4/{weighting}", **values)
        for weighting in ("uniform", "num_examples", "wer_softmax")
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_every_name_and_number_whole(width: int, tmp_path: Path) -> None:
    console = Console(width=width, record=True, markup=False)
    show_comparison(tmp_path, three(**EVERYTHING, **OF_PRETRAINING), console)
    tables, _, runs = console.export_text().partition("uniform: ")
    assert all(len(line) <= width for line in tables.splitlines())
    for shown in (
        *SHOWN.split("|"),
        *OF_PRETRAINING_SHOWN.split("|"),
        "num_examples",
        "wer_softmax",
        "12346 (12346 to 12346)",
    ):
        assert shown in tables
    assert "outputs/r; weighting=wer_softmax" in runs


def test_a_file_shows_them_too(tmp_path: Path) -> None:
    write_comparison(tmp_path, three(**NUMBERS))
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert all(shown in text for shown in (*SHOWN.split("|"), "num_examples", "outputs/r"))
        assert "an4_common_voice" not in text and "run_dir=" not in text, "the same for all, or no description"


@pytest.mark.parametrize(
    ("command_lines", "head", "labels"),
    [
        (["a.yaml x.weighting=uniform", "a.yaml x.weighting=size"], "weighting", ["uniform", "size"]),
        (["a.yaml s=1 lr=2", "a.yaml s=1 lr=3", "a.yaml s=2 lr=2"], "s, lr", ["1, 2", "1, 3", "2, 2"]),
        (["a.yaml", "a.yaml x.lr=2"], "", ["run 1", "lr=2"]),
        (
            ["a.yaml s=1", "a.yaml s=1 federation=devices weighting=size", "a.yaml s=1 federation.clients.count=3"],
            *("", ["run 1", "devices size", "count=3"]),
        ),
        (["a.yaml", "a.yaml x.personalise=true"], "", ["run 1", "personalise=true"]),
        (["hparams/a.yaml", "hparams/b.yaml"], "experiment", ["a", "b"]),
        (["a.yaml run_dir=o/1", "a.yaml run_dir=o/2 resume=true"], "", ["run 1", "run 2"]),
        (["a.yaml data.root=" + "long/" * 9, "a.yaml data.root=d"], "root", ["run 1", "d"]),
        (["a.yaml a.lr=1", "a.yaml a.lr=2", "a.yaml a.lr=2"], "lr", ["1", "run 2", "run 3"]),
        (["a.yaml a.lr=1", "a.yaml b.lr=1"], "", ["a.lr=1", "b.lr=1"]),  # not both lr=1
        (["a.yaml seed=1"], "experiment, seed", ["a, 1"]),
        ([""], "", ["run 1"]),
    ],
)
def test_a_run_is_called_by_what_only_it_has_or_by_its_number(
    command_lines: list[str], head: str, labels: list[str]
) -> None:
    assert run_labels([line.split() for line in command_lines]) == (head, labels)


def test_the_table_keeps_to_one_line_a_run_whatever_is_in_it(tmp_path: Path) -> None:
    records = [
        record("server=fed_avg", test_wer=12.345, rounds=3),
        record("server=fed_[red]|adam", failed="two\nlines | of [red]reasons[/red]"),
    ]
    lines = markdown(lay_out(records)).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1 and not lines[4]
    assert "12.35" in lines[2] or "12.34" in lines[2]
    assert "clients" not in lines[0], "a column without a value"
    assert "two lines | of [red]reasons[/red]" in lines[6]
    console = Console(width=60, record=True, markup=False)
    show_comparison(tmp_path, records, console)
    assert "fed_[red]|adam" in console.export_text(), "no markup"


def test_a_single_run_says_what_it_was() -> None:
    assert "- a, 3: outputs/r; a.yaml seed=3" in markdown(lay_out([record("a.yaml seed=3", test_wer=1.0)]))


def test_runs_with_a_fleet_have_a_table_of_its_time() -> None:
    numbers = {
        "fleet_hours": 12.345,
        "fleet_hours_to_best": 3.0,
        "stragglers": 0.3,
        "dropped": 0.25,
        "lost_compute": 0.5,
        "waiting": 0.125,
        "fleet_mb_up": 1234.5,
        "fleet_mb_down": 67.8,
    }
    with_clock = record("a.yaml simulation=phones", **NUMBERS, **numbers)
    comparison = lay_out([with_clock, record("a.yaml", **NUMBERS)])
    time, work = (
        {name: own for name, *own in zip(each.head, *each.rows, strict=True)} for each in comparison.tables[2:]
    )
    assert time == {
        "": ["phones", "run 2"],
        "fleet\u00a0hours": ["12.3", ""],
        "to best WER": ["3", ""],
        "stragglers": ["30%", ""],
        "waiting": ["12%", ""],
    }
    assert work == {
        "": ["phones", "run 2"],
        "dropped": ["25%", ""],
        "lost computing": ["50%", ""],
        "clients' MB\u00a0up": ["1234", ""],
        "clients' MB\u00a0down": ["67.8", ""],
    }
    assert comparison.notes[0].startswith("Stragglers: ")
    reached, never = (record(word, target_wer=20.0, fleet_hours_to_target=at) for word, at in (("a", 1.5), ("b", None)))
    comparison = lay_out([reached, never])
    assert [row[1] for row in comparison.tables[0].rows] == ["1.5", "never"] and "20 %" in comparison.notes[0]
    heard = record("c", least_heard="Galaxy S7", least_heard_part=0.4, least_heard_wer=31.5)
    assert lay_out([heard]).tables[0].rows[0][1:] == ["Galaxy S7", "40%", "31.50"]
    assert len(lay_out([record("a.yaml", **NUMBERS)]).tables) == 2


def test_what_is_modelled_has_its_band() -> None:
    bands = {"wh": (1.5, 0.6, 4.0), "g_co2e": (0.145, 0.047, 1493.2), "of_central": (1.71, 0.19, 108.4)}
    values = {f"{name}{end}": at for name, band in bands.items() for end, at in zip(BAND, band, strict=True)}
    comparison = lay_out([record("a", **values), record("b", **NUMBERS)])
    assert [each.rows[0][1:] for each in comparison.tables[2:]] == [
        ["1.50 (0.600 to 4.00)", "0.145 (0.0470 to 1493)"],
        ["1.71 (0.190 to 108)"],
    ]
    assert "with the bounds of all constants" in comparison.notes[0]
