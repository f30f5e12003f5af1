"""The account of a run by the clock that it had."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.carbon.of_run import account_of_run, assume, check_carbon
from asr_fed.commands.measure import composed
from asr_fed.config.schema import CarbonConfig, Config, EngineKind, Mode, SimulationConfig
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.record import CLIENTS, ClientTime, RoundTime, append_times
from asr_fed.system.errors import UserError


def a_round(number: int, **changes: float) -> RoundRecord:
    numbers = dict.fromkeys(RoundRecord.__dataclass_fields__, 0) | {"workers": [], "failures": {}}
    return RoundRecord(**(numbers | {"round": number, "clients": 2, "audio_seconds": 100.0} | changes))  # type: ignore[arg-type]


HISTORY = [a_round(1), a_round(2)]
FAST = ClientTime(1, "a", "Galaxy Note 10", 1.0, 30.0, 3.0, 20.0, 4_000_000, 8_000_000, True, 1.0)
SLOW = ClientTime(1, "b", "Galaxy S7", 2.0, 60.0, 6.0, 0.0, 4_000_000, 8_000_000, False, 1.0)


def simulated(**settings: object) -> Config:
    carbon = CarbonConfig(**({"countries": {"france": 1.0}} | settings))  # type: ignore[arg-type]
    return Config(simulation=SimulationConfig(devices="phones"), carbon=carbon)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for number in (1, 2):
        clients = [replace(each, round=number) for each in (FAST, SLOW)]
        append_times(tmp_path, clients, RoundTime(number, 0.0, 70.0, 5.0, 2, 1))
    return tmp_path


def test_a_virtual_clock_is_added_up_by_phase(run_dir: Path) -> None:
    account = account_of_run(simulated(), run_dir, HISTORY, 400.0, 10.0)
    wh = {phase: sums.wh.value for phase, sums in account.by_phase.items()}
    assert wh == pytest.approx(
        {
            "compute": 2 * 90 * 3 / 3600,  # those that came too late have worked as well
            "upload": 2 * 9 * (3 + 7.5) / 3600,
            "download": 2 * 3 * (3 + 7.5) / 3600,
            "idle": 0.0,  # within a band: a phone may be kept awake
            "server": 2 * 5 * 45 * 1.09 / 3600,
        }
    )
    assert account.total.g.value == pytest.approx(sum(wh.values()) * 56.039 / 1000)
    assert account.by_phase["idle"].wh == pytest.approx((0.0, 0.0, 2 * 20 * 0.5 / 3600))
    assert account.mbps == pytest.approx(2 * 24_000_000 * 8 / 1e6 / 24)
    assert account.g_per_point is not None and account.g_per_point.value == account.total.g.value / 10
    assert list(account.by_round) == [1, 2]


def test_the_centralised_run_does_the_same_work_on_a_gpu(run_dir: Path) -> None:
    """60 s of phones' time trained on the 200 s of audio that counted; twice that audio is 120 s of theirs."""
    account = account_of_run(simulated(), run_dir, HISTORY, 400.0, None)
    assert account.centralised is not None
    assert account.centralised.wh.value == pytest.approx(2 * 60 * 0.03 * 250 * 1.58 / 3600)
    elsewhere = simulated(central_country="poland", central_seconds=72.0, central_device="gpu_t4")
    account = account_of_run(elsewhere, run_dir, HISTORY, 400.0, None)
    assert account.centralised is not None
    assert account.centralised.wh.value == pytest.approx(72 * 70 * 1.58 / 3600)
    assert account.centralised.g.value == pytest.approx(account.centralised.wh.value * 661.926 / 1000)


def test_each_device_has_its_own_power_where_the_table_has_one(tmp_path: Path) -> None:
    rows = [replace(FAST, device=device) for device in ("T4", "H100", "something")]
    append_times(tmp_path, rows, RoundTime(1, 0.0, 70.0, 5.0, 3, 3))
    config = simulated()
    config.simulation = SimulationConfig(devices="gpu_silos")
    account = account_of_run(config, tmp_path, HISTORY[:1], 100.0, None)
    assert account.by_phase["compute"].wh.value == pytest.approx(30 * (70 + 700 + 250) / 3600)
    assert {"gpu_t4_v100_seconds", "gpu_h100_v100_seconds", "gpu_silo_v100_seconds"} <= {
        factor for term in account.central for factor in term.factors
    }


def test_clients_in_several_countries(run_dir: Path) -> None:
    mixed = simulated(countries={"france": 0.75, "italy": 0.25}, server_country="poland")
    account = account_of_run(mixed, run_dir, HISTORY, 400.0, None)
    clients = account.total.wh.value - account.by_phase["server"].wh.value
    assert account.by_country["italy"].wh.value == pytest.approx(clients / 4)
    assert account.by_country["poland"].wh == account.by_phase["server"].wh


def test_a_deployment_is_counted_by_the_real_clock(tmp_path: Path) -> None:
    config = Config(carbon=CarbonConfig(countries={"france": 1.0}, device="cpu_silo", up_mbps=8, down_mbps=16))
    config.engine.kind = EngineKind.deployment
    seconds = {"train_seconds": 100.0, "exchange_seconds": 80.0, "aggregate_seconds": 2.0, "held_out_seconds": 3.0}
    history = [a_round(1, bytes_up=10_000_000, bytes_down=10_000_000, **seconds)]
    account = account_of_run(config, tmp_path, history, 100.0, None)
    wh = {phase: sums.wh.value for phase, sums in account.by_phase.items()}
    assert wh == pytest.approx(
        {
            "compute": 100 * 150 / 3600,
            "upload": 10 * (60 + 7.5) / 3600,
            "download": 5 * (60 + 7.5) / 3600,
            "idle": (2 * 80 - 100 - 10 - 5) * 60 / 3600,
            "server": 5 * 45 * 1.09 / 3600,
        }
    )


def rewrite(path: Path, change) -> None:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[:2], r"simulation.csv has holes: no row of round 2"),
        (lambda rows: [*rows[:2], rows[2] | {"compute_s": "-1"}], "line 4, client a: no time and no number of bytes"),
        (lambda rows: [*rows, rows[0] | {"round": "3"}], "line 6, client a: round 3 is not in .*simulation_rounds.csv"),
        (lambda rows: [*rows[:3], rows[3] | {"idle_s": "nan"}], "line 5, client b: no time and no number of bytes"),
    ],
)
def test_a_clock_with_holes_is_refused(run_dir: Path, change, says: str) -> None:
    rewrite(run_dir / CLIENTS, change)
    with pytest.raises(UserError, match=says):
        account_of_run(simulated(), run_dir, HISTORY, 400.0, None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"countries": {"frnace": 1.0}}, "carbon.countries: the carbon intensity of 'frnace' is not known"),
        ({"countries": {"france": 0.5}}, "carbon.countries: the shares must sum to 1, and these sum to 0.5"),
        ({"countries": {}}, "carbon.countries: the shares must sum to 1"),
        ({"device": "abacus"}, "carbon.device: the power of a 'abacus' is not known"),
        ({"constants": {"router": -7}}, "carbon.constants.router: -7 within -7 to -7 is not possible"),
        ({"intensities": "talk"}, "intensities=talk: it is one of grid, talk2023"),
        ({"central_device": "gpu_t4"}, "carbon.central_device=gpu_t4: .* Give carbon.central_seconds"),
        ({"server_country": "atlantis"}, "carbon.server_country: the carbon intensity of 'atlantis'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_carbon(simulated(**settings))


def test_an_account_needs_a_clock_of_clients() -> None:
    check_carbon(Config())
    check_carbon(simulated())
    config = simulated()
    config.simulation = None
    with pytest.raises(UserError, match="needs a clock.*simulation=phones"):
        check_carbon(config)
    config.engine.kind = EngineKind.deployment
    with pytest.raises(UserError, match="carbon.device: the power of the nodes of a deployment is not known"):
        check_carbon(config)
    assert config.carbon is not None
    config.carbon.device = "laptop"
    check_carbon(config)
    config.mode = Mode.central
    with pytest.raises(UserError, match="use mode=federated"):
        check_carbon(config)


def test_devices_of_ones_own_need_a_power() -> None:
    config = simulated()
    config.simulation = SimulationConfig(devices="my_devices.csv")
    with pytest.raises(UserError, match="carbon.device: the power of the devices of simulation.devices=my_devices.csv"):
        check_carbon(config)


def test_countries_and_an_intensity_of_ones_own_on_the_command_line() -> None:
    """As docs/time_and_carbon.md writes them."""
    words = ["~carbon.countries.france", "+carbon.countries={kenya: 0.5, india: 0.5}"]
    words.append("+carbon.constants.grid_india=[500,600,700]")
    config = composed("hparams/demo_fr.yaml", ["simulation=phones", "carbon=france", *words])
    assert config.carbon is not None
    given = assume(config.carbon, config)
    assert {(home.country, home.share) for home in given.homes} == {("kenya", 0.5), ("india", 0.5)}
    assert [getattr(given.constants["grid_india"], end) for end in ("low", "value", "high")] == [500, 600, 700]
