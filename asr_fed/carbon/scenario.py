"""A federation on paper: rounds, clients, seconds, watts, bytes and countries in a YAML file."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from asr_fed.carbon.account import Account
from asr_fed.carbon.constants import GRID, check_device, read_constants, with_changes
from asr_fed.carbon.model import MEGA, ClientWork, ServerWork, Term, central_term, federated_terms, mean_mbps
from asr_fed.carbon.places import Place, check_shares, places
from asr_fed.config.carbon import Communication
from asr_fed.config.setting import setting
from asr_fed.data.settings_file import read_settings_file
from asr_fed.system.errors import UserError


@dataclass
class FederatedScenario:
    """rounds, clients: how many rounds, and clients in each.

    devices, countries: shares of the clients, which sum to 1.
    compute_seconds, idle_seconds: of one client in one round.
    megabytes_down, megabytes_up: of one client in one round; MB are 10^6 bytes.
    server_seconds: of one round. server_country: null for the clients' countries in their shares.
    """

    rounds: int = setting(at_least=1)
    clients: int = setting(at_least=1)
    devices: dict[str, float] = MISSING
    countries: dict[str, float] = MISSING
    compute_seconds: float = setting(at_least=0)
    idle_seconds: float = setting(0.0, at_least=0)
    megabytes_down: float = setting(0.0, at_least=0)
    megabytes_up: float = setting(0.0, at_least=0)
    down_mbps: float = setting(100.0, above=0)
    up_mbps: float = setting(100.0, above=0)
    communication: Communication = Communication.transfer_time
    server_seconds: float = setting(0.0, at_least=0)
    server_country: str | None = None


@dataclass
class CentralisedScenario:
    """seconds: of one device that is on for all of them. country: null for the clients' in their shares."""

    seconds: float = setting(above=0)
    device: str = "gpu_v100"
    country: str | None = None


@dataclass
class Scenario:
    """intensities: the set that the electricity of countries is taken from. constants: in place of those of the table,
    a number or [low, value, high] each. wer_gained: points of WER, for g per point."""

    title: str = MISSING
    federated: FederatedScenario = field(default_factory=FederatedScenario)
    centralised: CentralisedScenario | None = None
    intensities: str = GRID
    constants: dict[str, Any] = field(default_factory=dict)
    wer_gained: float | None = setting(None, above=0)


def read_scenario(path: Path, changes: Sequence[str] = ()) -> Account:
    """The scenario of a file, with `changes` such as `federated.up_mbps=20`.

    Raises UserError, naming file and key, for what makes no sense.
    """
    scenario = read_settings_file(path, Scenario, changes)
    try:
        return account_of(scenario)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def account_of(scenario: Scenario) -> Account:
    """Raises UserError, naming the key, for an unknown country or device, shares that do not sum to 1, and constants
    that are not possible."""
    constants = with_changes(read_constants(), scenario.constants, "constants")
    ours, central = scenario.federated, scenario.centralised

    def located(countries: Mapping[str, float], key: str) -> list[Place]:
        return places(constants, scenario.intensities, countries, key)

    homes = located(ours.countries, "federated.countries")
    check_shares(ours.devices, "federated.devices")
    for device in ours.devices:
        check_device(constants, device, "federated.devices")
    server = located({ours.server_country: 1.0}, "federated.server_country") if ours.server_country else homes
    rounds = range(1, ours.rounds + 1)
    clients = [
        _client_work(ours, number, home, device, home.share * part)
        for number, home, (device, part) in itertools.product(rounds, homes, ours.devices.items())
    ]
    servers = [
        ServerWork(number, place.country, place.intensity, place.share * ours.server_seconds)
        for number, place in itertools.product(rounds, server)
    ]
    central_terms: list[Term] = []
    if central is not None:
        check_device(constants, central.device, "centralised.device")
        centre = located({central.country: 1.0}, "centralised.country") if central.country else homes
        central_terms = [
            central_term(place.share * central.seconds, central.device, place.country, place.intensity)
            for place in centre
        ]
    return Account(
        title=scenario.title,
        federated=tuple(federated_terms(clients, servers, ours.communication)),
        central=tuple(central_terms),
        constants=constants,
        mbps=mean_mbps(clients),
        wer_gained=scenario.wer_gained,
    )


def _client_work(ours: FederatedScenario, number: int, home: Place, device: str, share: float) -> ClientWork:
    clients = share * ours.clients
    return ClientWork(
        round=number,
        country=home.country,
        intensity=home.intensity,
        device=device,
        compute_s=clients * ours.compute_seconds,
        download_s=clients * ours.megabytes_down * 8 / ours.down_mbps,
        upload_s=clients * ours.megabytes_up * 8 / ours.up_mbps,
        idle_s=clients * ours.idle_seconds,
        bytes_down=clients * ours.megabytes_down * MEGA,
        bytes_up=clients * ours.megabytes_up * MEGA,
    )
