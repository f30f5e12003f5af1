"""What cannot be meant is refused, with the file and the key."""

import csv
import json
from pathlib import Path

import pytest

from asr_fed.carbon.constants import GRID, INTENSITY, intensity, read_constants
from asr_fed.carbon.scenario import read_scenario
from asr_fed.commands.carbon import main
from asr_fed.system.errors import UserError

SCENARIO = """\
title: two countries
federated:
  rounds: 2
  clients: 10
  devices: {phone: 1.0}
  countries: {france: 0.5, italy: 0.5}
  compute_seconds: 30
  megabytes_up: 3
centralised: {seconds: 60}
"""
USES = ("compute", "transfer", "idle", "v100_seconds")
HEAD = "name,value,low,high,unit,year,source\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("federated.clint=3", "no key 'federated.clint'. Did you mean 'clients'?"),
        ("federated.rounds=two", "federated.rounds: "),
        ("federated.rounds=0", "federated.rounds=0 is not possible"),
        ("federated.compute_seconds=-1", "federated.compute_seconds=-1.0 is not possible"),
        ("federated.compute_seconds=nan", "federated.compute_seconds=nan is not possible"),
        ("centralised.seconds=0", "centralised.seconds=0.0 is not possible"),
        ("federated.countries.france=0.4", "federated.countries: the shares must sum to 1, and these sum to 0.9"),
        ("federated.countries={france: 1.5, italy: -0.5}", "federated.countries.italy=-0.5: a share must be above 0"),
        ("federated.devices={}", "federated.devices: the shares must sum to 1"),
        ("federated.devices.phone=0.5", "federated.devices: the shares must sum to 1"),
        ("federated.devices={fone: 1.0}", "federated.devices: the power of a 'fone' is not known"),
        ("centralised.device=abacus", "centralised.device: the power of a 'abacus' is not known"),
        ("centralised.country=frnace", "centralised.country: the carbon intensity of 'frnace' is not known"),
        ("centralised.country=frnace", "Did you mean 'france'?"),
        ("federated.server_country=atlantis", "federated.server_country: the carbon intensity of 'atlantis'"),
        ("intensities=talk2024", "intensities=talk2024: it is one of grid, talk2023"),
        ("intensities=talk2023", "the carbon intensity of 'france' is not known in the set talk2023"),
        ("constants.phone_compute=-3", "constants.phone_compute: -3 within -3 to -3 is not possible"),
        ("constants.phone_compute=null", "constants.phone_compute=None: give a number, or [low, value, high]"),
        ("constants.phone_compute=[5,3,9]", "constants.phone_compute: 3 is not within its bounds of 5 to 9"),
        ("constants.phone_compute=[1,3]", "constants.phone_compute=[1, 3]: give a number, or [low, value, high]"),
        ("constants.phone_power=3", "constants.phone_power: there is no such constant. Did you mean 'phone_"),
        ("constants.server_pue=0.9", "a PUE below 1 is not possible"),
        ("nothing", "nothing is not key=value"),
    ],
)
def test_bad_input_is_refused(path: Path, change: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [change]
    if change.startswith(("federated.countries={", "federated.devices={")):  # in the file: a change would add to it
        key, _, value = change.removeprefix("federated.").partition("=")
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in SCENARIO.splitlines()]
        path.write_text("\n".join(lines))
        changes = []
    output = path.parent / "out"
    assert main([str(path), *changes, "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert says in told and told.startswith("asr_fed.carbon: ")
    assert not output.exists()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read_scenario(tmp_path / "nowhere.yaml")
    path = tmp_path / "list.yaml"
    for text in ("- 1\n", "a: [\n", "", "title: x\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=str(path)):
            read_scenario(path)


@pytest.mark.parametrize("key", ["title", "rounds", "clients", "devices", "countries", "compute_seconds"])
def test_a_value_that_is_missing_is_named(path: Path, key: str) -> None:
    path.write_text("\n".join(line for line in SCENARIO.splitlines() if not line.strip().startswith(f"{key}:")))
    with pytest.raises(UserError, match=f"{path}: .*{key}"):
        read_scenario(path)


def test_the_command_writes_what_it_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = path.parent / "out"
    assert main([str(path), "constants.phone_compute=[2,4,8]", "--output", str(output)]) == 0
    told = json.loads((output / "carbon.json").read_text())
    wh = 2 * 10 * (30 * 4 + 3 * 8 / 100 * (3 + 7.5)) / 3600
    assert told["federated"]["wh"]["value"] == pytest.approx(wh)
    assert told["by_phase"]["compute"]["wh"] == pytest.approx({"low": wh_of(2), "value": wh_of(4), "high": wh_of(8)})
    shown = capsys.readouterr().out
    assert told["verdict"]["sentence"] in shown and "in france" in shown and "in italy" in shown
    with (output / "carbon.csv").open() as file:
        written = list(csv.DictReader(file))
    g = sum(float(row["g"]) for row in written if row["system"] == "federated")
    assert g == pytest.approx(told["federated"]["g"]["value"]) == pytest.approx(wh * (56.039 + 330.718) / 2 / 1000)
    assert (output / "carbon.png").stat().st_size > 1000


def wh_of(watts: float) -> float:
    return 2 * 10 * 30 * watts / 3600


def test_a_country_of_ones_own(path: Path) -> None:
    account = read_scenario(path, ["constants.grid_atlantis=100", "centralised.country=atlantis"])
    assert account.centralised is not None
    assert account.centralised.g.value == pytest.approx(account.centralised.wh.value * 0.1)


def test_every_constant_has_bounds_a_year_and_a_source() -> None:
    constants = read_constants()
    for constant in constants.values():
        assert constant.low <= constant.value <= constant.high and constant.source and 2015 <= constant.year <= 2026
        assert constant.unit or constant.name.endswith("_pue")
    g = {country: constants[f"{GRID}_{country}"].value for country in ("italy", "india", "brazil")}
    assert {country: round(value) for country, value in g.items()} == {"italy": 331, "india": 713, "brazil": 98}


def test_every_device_has_what_the_model_asks_for() -> None:
    constants = read_constants()
    devices = {name.removesuffix("_compute") for name in constants if name.endswith("_compute")}
    assert {f"{device}_{use}" for device in devices for use in USES} <= set(constants)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("router,seven,4,15,W,2023,ours", "line 2: router: value, low, high and year must be numbers"),
        ("router,-1,-2,15,W,2023,ours", "line 2: router: -1 within -2 to 15 is not possible"),
        ("router,3,4,15,W,2023,ours", "line 2: router: 3 is not within its bounds of 4 to 15"),
        ("router,5,4,15,W,2023,ours\nrouter,5,4,15,W,2023,ours", "line 3: router occurs twice"),
    ],
)
def test_a_bad_row_of_the_table_is_named(tmp_path: Path, row: str, says: str) -> None:
    path = tmp_path / "constants.csv"
    path.write_text(f"{HEAD}{row}\n")
    with pytest.raises(UserError, match=says):
        read_constants(path)


def test_countries_beyond_the_table_come_from_codecarbon() -> None:
    constants = read_constants()
    assert "grid_albania" not in constants
    name = intensity(constants, GRID, "Albania", "somewhere")
    assert constants[name].value > 0 and constants[name].unit == INTENSITY and "codecarbon" in constants[name].source


def test_the_tables_countries_are_those_of_codecarbon() -> None:
    from codecarbon.input import DataSource

    mix = {
        entry["country_name"].lower().replace(" ", "_"): entry
        for entry in DataSource().get_global_energy_mix_data().values()
    }
    for name, constant in read_constants().items():
        if name.startswith(f"{GRID}_"):
            entry = mix[name.removeprefix(f"{GRID}_")]
            assert constant.value == pytest.approx(entry["carbon_intensity"], abs=0.01)
            assert constant.year == entry["year"]
