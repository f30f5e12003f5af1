"""What this host drew while the run lasted, by codecarbon: real, and of other devices than those that are modelled."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr_fed.config.schema import Config
from asr_fed.system.errors import UserError

MEASURED = "measured_energy.jsonl"  # a line for each process of the run that came to an end
INTERVAL = 5.0  # seconds between two looks at power meters and load


def check_measure(config: Config) -> None:
    """Raises UserError where codecarbon is needed and not there, or does not know the host's country."""
    if config.carbon is not None and config.carbon.measure:
        if find_spec("codecarbon") is None:
            raise UserError("carbon.measure=true needs a package: pip install 'asr_fed[carbon]'.")
        host_country(config)


def host_country(config: Config) -> str:
    """The three letters of the country that this host stands in: its own, the server's, or the first of the clients'.

    Raises UserError where codecarbon does not know it.
    """
    from codecarbon.input import DataSource

    from asr_fed.carbon.constants import ALIASES

    settings = config.carbon
    assert settings is not None
    country = settings.host_country or settings.server_country or next(iter(settings.countries))
    name = ALIASES.get(country.lower(), country.lower()).replace("_", " ")
    source: Any = DataSource  # it has no types
    for code, entry in source().get_global_energy_mix_data().items():
        if name in (entry["country_name"].lower(), code.lower()):
            return str(code)
    raise UserError(f"carbon.host_country={country}: codecarbon does not know that country.")


@contextmanager
def measured(config: Config, run_dir: Path) -> Iterator[None]:
    """Measure the whole host while the context lasts, where the config asks for it, and add a line to MEASURED."""
    if config.carbon is None or not config.carbon.measure:
        yield
        return
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.external.logger import set_logger_level

    country = host_country(config)
    set_logger_level("ERROR")  # before it says hello
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        measure_power_secs=INTERVAL,
        save_to_file=False,
        allow_multiple_runs=True,
        tracking_mode="machine",
        log_level="error",
    )
    tracker.start()
    try:
        yield
    finally:
        tracker.stop()
        data = tracker.final_emissions_data
        line = {
            "wh": 1000 * data.energy_consumed,
            "g": 1000 * data.emissions,
            "seconds": data.duration,
            "cpu_wh": 1000 * data.cpu_energy,
            "gpu_wh": 1000 * data.gpu_energy,
            "ram_wh": 1000 * data.ram_energy,
            "country": country,
            "cpu": data.cpu_model,
            "gpu": data.gpu_model or None,
            "codecarbon": data.codecarbon_version,
        }
        with (run_dir / MEASURED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_measured(run_dir: Path) -> dict[str, Any] | None:
    """The sums over the run's processes that came to an end; None where nothing was measured."""
    path = run_dir / MEASURED
    if not path.is_file():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sums = {key: sum(line[key] for line in lines) for key in ("wh", "g", "seconds", "cpu_wh", "gpu_wh", "ram_wh")}
    return {**sums, "processes": len(lines), **{key: lines[-1][key] for key in ("country", "cpu", "gpu", "codecarbon")}}
