"""Tables from what others have measured: read again by the readers of tables; nothing is unpickled."""

import csv
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from asr_fed.simulation.tables import MBPS, read_availability, read_devices, read_network
from asr_fed.simulation.traces import convert
from asr_fed.system.errors import UserError


def written(folder: Path, content: Any) -> Path:
    path = folder / "given.json"
    path.write_text(json.dumps(content))
    return path


def of_form(folder: Path, form: str, key: str, entries: dict[str, dict[str, float]]) -> Path:
    """The same content as JSON, or as CSV with the names in the column `key`."""
    if form == "json":
        return written(folder, entries)
    path = folder / "given.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [key, *next(iter(entries.values()))])
        writer.writeheader()
        writer.writerows({key: name} | values for name, values in entries.items())
    return path


def trace(active: list[int], inactive: list[int], duration: int) -> dict[str, Any]:
    return {"active": active, "inactive": inactive, "duration": duration}


def converted(kind: str, source: Path) -> str:
    target = source.parent / "own.csv"
    convert(kind, source, target)
    assert target.read_text().startswith("# ")
    return str(target)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_flashs_phones_keep_their_scores(tmp_path: Path, form: str) -> None:
    source = written(tmp_path, {"Fast, 5G": 300, "Middle": 150, "Slow": 100})
    if form == "csv":
        source = tmp_path / "given.csv"
        source.write_text('model,score\n"Fast, 5G",300\nMiddle,150\nSlow,100\n')
    devices = read_devices(converted("flash-devices", source))
    assert {each.name: each.slowdown for each in devices} == {"Fast, 5G": 1, "Middle": 2, "Slow": 3}
    assert [each.share for each in devices] == pytest.approx([1 / 3] * 3, abs=1e-8)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_flashs_users_give_quantiles(tmp_path: Path, form: str) -> None:
    users = {f"u{number}": {"down_u": 1000.0 * number, "up_u": 100.0 * number} for number in range(1, 20)}
    network = read_network(converted("flash-network", of_form(tmp_path, form, "user", users)))
    assert network.quantiles == tuple(step / 20 for step in range(1, 20))
    assert network.speeds(0.5) == pytest.approx((10e6, 1e6))  # kB/s to bytes a second
    assert network.speeds(0.05) == pytest.approx((1e6, 1e5)) and network.speeds(0.95) == pytest.approx((19e6, 19e5))


@pytest.mark.parametrize("form", ["json", "csv"])
def test_fedscales_devices_by_tenths(tmp_path: Path, form: str) -> None:
    capacities = {str(number): {"computation": 10.0 * number, "communication": 8000.0} for number in range(1, 21)}
    source = of_form(tmp_path, form, "client", capacities)
    devices = read_devices(converted("fedscale-devices", source))
    assert len(devices) == 10 and devices[0].slowdown == 1
    assert devices[-1].slowdown == pytest.approx((190 + 200) / (10 + 20), rel=1e-5)
    assert read_network(converted("fedscale-network", source)).speeds(0.3) == pytest.approx((8 * MBPS, 8 * MBPS))


def test_fedscales_clients_by_hour(tmp_path: Path) -> None:
    night = {"active": [0, 72000], "inactive": [21600, 86400], "duration": 86400}
    always = {"active": [0], "inactive": [172800], "duration": 172800}
    curve = read_availability(converted("fedscale-availability", written(tmp_path, {"1": night, "2": always})))
    assert curve.at(3) == 1 and curve.at(12) == pytest.approx(2 / 3) and curve.at(21) == 1


@pytest.mark.parametrize(
    ("kind", "content", "wrong"),
    [
        ("flash-devices", {"A": 0}, "A is 0, not a number above 0"),
        ("flash-devices", {}, "no JSON object with entries"),
        ("flash-devices", [1], "no JSON object with entries"),
        ("flash-network", {"u": {"down_u": 1.0}}, "u has no up_u"),
        ("flash-network", {"u": {"down_u": "x", "up_u": 1}}, "u.down_u is 'x'"),
        ("fedscale-devices", {"7": {"computation": -1, "communication": 5}}, "7.computation is -1"),
        ("fedscale-availability", {"7": {"active": [5], "inactive": [], "duration": 9}}, "7 has not as many"),
        (
            "fedscale-availability",
            {"7": {"active": [5], "inactive": [2], "duration": 9}},
            "inactive before it is active",
        ),
        (
            "fedscale-availability",
            {"7": {"active": [0], "inactive": [9], "duration": 7200}},
            "holes: no trace covers hour 2",
        ),
    ],
)
def test_what_is_not_of_its_kind_is_refused_with_its_key(tmp_path: Path, kind: str, content: Any, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        convert(kind, written(tmp_path, content), tmp_path / "own.csv")


@pytest.mark.parametrize(
    ("kind", "rows", "wrong"),
    [
        ("flash-devices", "model,score\nA,0\n", "line 2, score is 0.0, not a number above 0"),
        ("flash-devices", "model,score\nA,fast\n", "line 2, score is 'fast'"),
        ("flash-devices", "model,score\nA,1\nA,2\n", "line 3: the model 'A' occurs twice"),
        ("flash-devices", "model,score\n", "has no model"),
        ("flash-devices", "phone,score\nA,1\n", "model"),
        ("flash-network", "user,down_u\nu,1\n", "up_u"),
        ("fedscale-availability", "client,active\n7,0\n", "activity traces are lists of seconds"),
    ],
)
def test_a_table_that_is_not_of_its_kind_is_refused_with_its_row(
    tmp_path: Path, kind: str, rows: str, wrong: str
) -> None:
    source = tmp_path / "given.csv"
    source.write_text(rows)
    with pytest.raises(UserError, match=wrong):
        convert(kind, source, tmp_path / "own.csv")


class Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("name", ["given.pkl", "given.json"])
def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UserError, match="pickle|no JSON|UTF-8|UTF-16"):
        convert("fedscale-devices", path, tmp_path / "own.csv")
    assert not (tmp_path / "harmed").exists()
