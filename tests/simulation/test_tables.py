"""Tables of devices, networks and availability: what they say, and what is refused with its row."""

from pathlib import Path

import pytest
import yaml

from asr_fed.config.files import experiments_folder
from asr_fed.config.setting import check_ranges
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.tables import MBPS, names_of, read_availability, read_devices, read_network
from asr_fed.system.errors import UserError
from tests.tiny import typed_config


def test_the_phones_of_flowers_baseline() -> None:
    phones = read_devices("phones")
    assert [phone.share for phone in phones] == [0.1612, 0.374, 0.1866, 0.1054, 0.0872, 0.0856]
    assert [phone.slowdown for phone in phones] == [729 / score for score in (729, 607, 359, 343, 226, 180)]
    assert sum(phone.share * phone.slowdown for phone in phones) == pytest.approx(1.841, abs=5e-4)


def test_the_mobile_network_goes_through_what_was_measured() -> None:
    mobile = read_network("mobile")
    megabytes = {quantile: tuple(v / 1e6 for v in mobile.speeds(quantile)) for quantile in (0.05, 0.5, 0.95)}
    assert megabytes[0.05] == pytest.approx((2.4, 0.43))
    assert megabytes[0.5] == pytest.approx((4.3, 3.3))
    assert megabytes[0.95] == pytest.approx((17.3, 6.6))
    assert mobile.speeds(0.0) == mobile.speeds(0.05) and mobile.speeds(0.999) == mobile.speeds(0.95)
    rising = [mobile.speeds(step / 50)[0] for step in range(2, 48)]
    assert rising == sorted(rising) and len(set(rising)) == len(rising)


def test_a_network_may_be_a_number() -> None:
    assert read_network("20").speeds(0.3) == pytest.approx((20 * MBPS, 20 * MBPS))
    assert read_network("100/20").speeds(0.9) == pytest.approx((100 * MBPS, 20 * MBPS))
    for wrong in ("0", "-3", "20/0", "nan"):
        with pytest.raises(UserError, match="simulation.network"):
            read_network(wrong)


def test_every_table_that_comes_with_asr_fed_can_be_read_and_names_its_source() -> None:
    assert {"phones", "jetson", "gpu_silos", "cpu"} <= set(names_of("devices"))
    for name in names_of("devices"):
        assert read_devices(name)
    for name in names_of("networks"):
        assert read_network(name)
    for name in names_of("availability"):
        assert read_availability(name)
    folder = Path(__file__).parents[2] / "asr_fed" / "simulation"
    assert all(path.read_text().startswith("# ") for path in folder.rglob("*.csv"))


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("a,0.5,1\nb,0.4,2", "sum to 0.9 in place of 1"),
        ("a,0.5,1\nb,-0.5,2", "line 3: share -0.5 is not above 0"),
        ("a,0.5,1\nb,0.5,0", "line 3: slowdown 0 is not above 0"),
        ("a,0.5,1\nb,0.5,fast", "line 3: slowdown 'fast' is not a number"),
        ("a,0.5,1\na,0.5,2", "'a' occurs twice"),
        ("", "no device"),
    ],
)
def test_devices_that_cannot_be_are_refused(tmp_path: Path, rows: str, wrong: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"device,share,slowdown\n{rows}\n")
    with pytest.raises(UserError, match=wrong):
        read_devices(str(path))


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("0.1,5,5\n0.9,4,6", "line 3: mbps_down 4 falls"),
        ("0.5,5,5\n0.5,6,6", "line 3: quantile 0.5"),
        ("1.5,5,5", "line 2: the quantile 1.5 is not below 1"),
        ("0.5,0,5", "line 2: mbps_down 0 is not above 0"),
    ],
)
def test_networks_that_cannot_be_are_refused(tmp_path: Path, rows: str, wrong: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"quantile,mbps_down,mbps_up\n{rows}\n")
    with pytest.raises(UserError, match=wrong):
        read_network(str(path))


def test_availability_with_holes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("hour,available\n" + "".join(f"{hour},0.5\n" for hour in range(24) if hour not in (3, 17)))
    with pytest.raises(UserError, match="holes: no row for hour 3, 17"):
        read_availability(str(path))
    path.write_text("hour,available\n3,1.5\n")
    with pytest.raises(UserError, match="line 2: available 1.5"):
        read_availability(str(path))


def test_a_table_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"no table of devices 'phone': use cpu, gpu_silos, jetson, phones, or a CSV"):
        read_devices("phone")
    with pytest.raises(UserError, match=r"no table .*mine\.csv"):
        read_devices("mine.csv")


@pytest.mark.parametrize("path", sorted((experiments_folder() / "simulation").glob("[!n]*.yaml")), ids=lambda p: p.stem)
def test_every_profile_is_one_that_would_start(path: Path) -> None:
    config = typed_config({"simulation": yaml.safe_load(path.read_text())})
    assert config.simulation is not None
    check_ranges(config.simulation, "simulation.")
    hardware = Fleet.read(config.simulation, seed=1).hardware("anna")
    assert hardware.device.slowdown >= 1 and hardware.down >= hardware.up > 0
