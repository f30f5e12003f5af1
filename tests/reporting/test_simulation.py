"""A fleet's time for people: sentences that say what the numbers say, and pictures that can be drawn."""

import base64
from pathlib import Path
from typing import Any

import pytest

from asr_fed.reporting.simulation import describe_fleet, describe_size, duration, fleet_numbers, fleet_section
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.record import append_times
from tests.runs.test_records import record
from tests.simulation.test_heard import AGAIN, FAST, LATE, ROUNDS, SLOW

SUMMARY: dict[str, Any] = {
    "devices": "phones",
    "network": "mobile",
    "model_size": 1.0,
    "rounds": 2,
    "asynchronous": False,
    "hours": 2.0,
    "best_hours": 0.5,
    "best_wer": 12.345,
    "asked": 4,
    "arrived": 3,
    "stragglers": 0.5,
    "partial": 1 / 3,
    "lost_compute": 0.42,
    "waiting": 0.3,
    "staleness": 0.0,
    "gb_down": 0.4,
    "gb_up": 6.0,
    "heard": [{"by": "device"}],
}


def test_the_lines_say_how_long_it_took_and_who_was_late() -> None:
    first, second = describe_fleet(SUMMARY)
    assert first == "Fleet of phones on mobile: 2.0 h for 2 rounds, dev WER 12.35 after 30.0 min."
    assert "3 of 4 asked clients arrived; 33% of them with part of the work; 42% of the computation was lost" in second
    assert "50% of those asked were stragglers" in second
    assert "waited 30% of their time" in second and second.endswith("400 MB down, 6 GB up.")
    steps = describe_fleet(SUMMARY | {"asynchronous": True, "staleness": 1.26, "best_hours": None})
    assert steps[0].endswith("2.0 h for 2 server steps.") and "updates were 1.3 steps old" in steps[1]
    assert describe_fleet(None) == []


def test_a_model_unlike_the_one_that_was_measured_is_said_with_its_hours() -> None:
    assert describe_size(0.4) is describe_size(2.9) is None
    for size in (0.3, 167.0):
        (_, remark, _) = describe_fleet(SUMMARY | {"model_size": size})
        assert remark == describe_size(size) and f"{size:g} times the parameters" in remark
        assert "asr_fed.simulation.measure" in remark


@pytest.mark.parametrize(("hours", "text"), [(5.25, "5.2 h"), (0.25, "15.0 min"), (0.01, "36 s")])
def test_durations_have_a_unit_that_fits(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_a_comparison_says_when_a_wer_was_reached_and_who_is_least_heard() -> None:
    history = [record(1, wer=20.0, fleet_seconds=1800.0), record(2, wer=10.0, fleet_seconds=5400.0)]
    heard = [
        {"group": "slow", "counted": 0.2, "fair": 0.5, "wer": 30.0},
        {"group": "fast", "counted": 0.8, "fair": 0.5, "wer": 20.0},
    ]
    numbers = fleet_numbers(SUMMARY | {"heard": heard}, history, 15.0)
    assert (numbers["fleet_hours"], numbers["fleet_hours_to_target"]) == (2.0, 2.0)
    assert (numbers["least_heard"], numbers["least_heard_wer"]) == ("slow", 30.0)
    assert (numbers["stragglers"], numbers["fleet_mb_up"], numbers["fleet_mb_down"]) == (0.5, 6000, 400)
    assert numbers["least_heard_part"] == pytest.approx(0.4)
    assert fleet_numbers(SUMMARY | {"heard": []}, history, 20.0)["fleet_hours_to_target"] == 0.5
    assert fleet_numbers(SUMMARY | {"heard": []}, history, 5.0)["fleet_hours_to_target"] is None
    assert fleet_numbers(None, history) == {}


def test_the_section_has_the_curve_and_the_timeline_of_a_round(tmp_path: Path) -> None:
    append_times(tmp_path, [FAST, SLOW, LATE], ROUNDS[0])
    append_times(tmp_path, [AGAIN], ROUNDS[1])
    history: list[RoundRecord] = [record(1, wer=20.0, fleet_seconds=1800.0), record(2, wer=10.0, fleet_seconds=5400.0)]
    section = fleet_section(tmp_path, SUMMARY, history)
    assert section is not None and section["heard"] == SUMMARY["heard"]
    pictures = [base64.b64decode(each.partition(",")[2]) for each in section["figures"].values()]
    assert list(section["figures"]) == ["WER over the time of the fleet", "Round 2: who waited for whom"]
    assert all(b"<svg" in picture for picture in pictures)
    assert fleet_section(tmp_path, None, history) is None
