"""This host's energy, by codecarbon itself."""

import json
from pathlib import Path

import pytest

from asr_fed.carbon.measure import MEASURED, check_measure, host_country, measured, read_measured
from asr_fed.config.schema import CarbonConfig, Config
from asr_fed.system.errors import UserError


def config(**settings: object) -> Config:
    return Config(carbon=CarbonConfig(**({"countries": {"france": 1.0}, "measure": True} | settings)))  # type: ignore[arg-type]


def test_what_the_host_draws_is_added_up_over_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with measured(config(), tmp_path):
            sum(range(100_000))
    lines = [json.loads(line) for line in (tmp_path / MEASURED).read_text().splitlines()]
    found = read_measured(tmp_path)
    assert found is not None and found["processes"] == len(lines) == 2
    assert found["wh"] == lines[0]["wh"] + lines[1]["wh"] > 0
    assert found["g"] == pytest.approx(found["wh"] * 56.039 / 1000, rel=1e-3)
    assert found["country"] == "FRA" and found["seconds"] > 0
    assert "codecarbon" not in "".join(capfd.readouterr())


def test_nothing_is_measured_unasked(tmp_path: Path) -> None:
    for unasked in (Config(), config(measure=False)):
        with measured(unasked, tmp_path):
            pass
    assert read_measured(tmp_path) is None and not list(tmp_path.iterdir())


def test_the_host_stands_where_it_is_said_or_the_server_or_the_first_client() -> None:
    assert host_country(config(host_country="united_states", server_country="italy")) == "USA"
    assert host_country(config(server_country="uk")) == "GBR"
    assert host_country(config()) == "FRA"
    with pytest.raises(UserError, match="carbon.host_country=atlantis: codecarbon does not know that country"):
        check_measure(config(host_country="atlantis"))
