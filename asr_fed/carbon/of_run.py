"""The account of a run: by its virtual clock, or in a deployment by the real one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_fed.carbon.account import Account
from asr_fed.carbon.constants import Constant, check_device, read_constants, with_changes
from asr_fed.carbon.model import (
    MEGA,
    ClientWork,
    ServerWork,
    Term,
    central_term,
    federated_terms,
    mean_mbps,
)
from asr_fed.carbon.places import Place, places
from asr_fed.config.schema import CarbonConfig, Config, EngineKind, Mode
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.record import CLIENTS, ROUNDS, read_client_times, read_round_times
from asr_fed.system.errors import UserError

# Whose power the devices of these tables of the virtual clock have, where a device is not in our own table by its name.
DEVICES = {"phones": "phone", "jetson": "jetson_tx2", "gpu_silos": "gpu_silo", "cpu": "cpu_silo"}


@dataclass(frozen=True)
class Spent:
    """What one kind of device did in one round, wherever; seconds and bytes added up over clients.

    arrived_s: the part of `compute_s` whose updates counted.
    """

    round: int
    device: str
    compute_s: float
    download_s: float
    upload_s: float
    idle_s: float
    bytes_down: float
    bytes_up: float
    arrived_s: float


@dataclass(frozen=True)
class Assumptions:
    """The constants and places of a config, and how the devices of its clock are called in the table."""

    constants: dict[str, Constant]
    homes: list[Place]
    server: list[Place]
    centre: list[Place]
    device: str


def check_carbon(config: Config) -> None:
    """Raises UserError where `carbon` makes no sense."""
    if config.carbon is not None:
        if config.mode is Mode.central:
            raise UserError("carbon=... is the account of a federation: use mode=federated.")
        if config.simulation is None and config.engine.kind is not EngineKind.deployment:
            raise UserError(
                "carbon=... needs a clock: the time of worker processes on this machine is not that of the clients' "
                "devices. Add simulation=phones, or another one."
            )
        assume(config.carbon, config)


def assume(settings: CarbonConfig, config: Config) -> Assumptions:
    """Raises UserError, naming the key, for an unknown country or device, shares that do not sum to 1, and constants
    that are not possible."""
    constants = with_changes(read_constants(), settings.constants, "carbon.constants")

    def located(countries: Mapping[str, float], key: str) -> list[Place]:
        return places(constants, settings.intensities, countries, f"carbon.{key}")

    homes = located(settings.countries, "countries")
    server = located({settings.server_country: 1.0}, "server_country") if settings.server_country else homes
    centre = located({settings.central_country: 1.0}, "central_country") if settings.central_country else homes
    check_device(constants, settings.central_device, "carbon.central_device")
    if settings.central_seconds is None and settings.central_device != "gpu_v100":
        raise UserError(
            f"carbon.central_device={settings.central_device}: seconds can only be estimated for a gpu_v100. Give "
            "carbon.central_seconds."
        )
    return Assumptions(constants, homes, server, centre, _device(constants, settings, config))


def account_of_run(
    config: Config,
    run_dir: Path,
    history: Sequence[RoundRecord],
    central_audio_seconds: float,
    wer_gained: float | None,
) -> Account:
    """`central_audio_seconds`: audio that the centralised run trains on, every pass counted.

    Raises UserError where the clock has holes.
    """
    settings = config.carbon
    assert settings is not None
    given = assume(settings, config)
    if config.simulation is None:
        spent, server = _by_real_clock(history, settings, given.device)
    else:
        spent, server = _by_virtual_clock(run_dir, history, given)
    clients = [_at(home, each) for each in spent for home in given.homes]
    servers = [
        ServerWork(number, place.country, place.intensity, place.share * seconds)
        for number, seconds in server.items()
        for place in given.server
    ]
    audio = math.fsum(record.audio_seconds for record in history)
    return Account(
        title=f"{run_dir.name} on {' and '.join(sorted({each.device for each in spent}))}".replace("_", " "),
        federated=tuple(federated_terms(clients, servers, settings.communication)),
        central=tuple(_central(settings, given, spent, central_audio_seconds / audio if audio else 0.0)),
        constants=given.constants,
        mbps=mean_mbps(clients),
        wer_gained=wer_gained,
    )


def _central(settings: CarbonConfig, given: Assumptions, spent: Sequence[Spent], passes: float) -> list[Term]:
    """Where its seconds are not given, those of a V100. `passes`: how many times the clients' audio it trains on."""
    device = settings.central_device
    if settings.central_seconds is not None:
        seconds = settings.central_seconds
        return [central_term(place.share * seconds, device, place.country, place.intensity) for place in given.centre]
    by_device: dict[str, float] = {}
    for each in spent:
        by_device[each.device] = by_device.get(each.device, 0.0) + each.arrived_s
    return [
        central_term(place.share * seconds * passes, device, place.country, place.intensity, f"{theirs}_v100_seconds")
        for theirs, seconds in by_device.items()
        for place in given.centre
        if seconds * passes > 0
    ]


def _by_virtual_clock(
    run_dir: Path, history: Sequence[RoundRecord], given: Assumptions
) -> tuple[list[Spent], dict[int, float]]:
    server = {each.round: each.server_s for each in read_round_times(run_dir)}
    sums: dict[tuple[int, str], list[float]] = {}
    for line, row in enumerate(read_client_times(run_dir), 2):
        where = f"{run_dir / CLIENTS}, line {line}, client {row.client}"
        numbers = [row.compute_s, row.download_s, row.upload_s, row.idle_s, row.bytes_down, row.bytes_up]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise UserError(f"{where}: no time and no number of bytes is negative.")
        if row.round not in server:
            raise UserError(f"{where}: round {row.round} is not in {run_dir / ROUNDS}.")
        key = row.round, power_of(row.device, given)
        numbers.append(row.compute_s if row.arrived else 0.0)
        sums[key] = [a + b for a, b in zip(sums.get(key, [0.0] * 7), numbers, strict=True)]
    if missing := sorted({record.round for record in history} - {number for number, _ in sums}):
        raise UserError(f"{run_dir / CLIENTS} has holes: no row of round {', '.join(map(str, missing))}.")
    return [Spent(number, device, *each) for (number, device), each in sums.items()], server


def _by_real_clock(
    history: Sequence[RoundRecord], settings: CarbonConfig, device: str
) -> tuple[list[Spent], dict[int, float]]:
    """Of a deployment: measured seconds of training, bytes on the wire at the config's speeds, the rest waiting."""
    spent, server = [], {}
    for record in history:
        down, up = (
            8 * transferred / MEGA / mbps
            for transferred, mbps in ((record.bytes_down, settings.down_mbps), (record.bytes_up, settings.up_mbps))
        )
        idle = max(0.0, record.clients * record.exchange_seconds - record.train_seconds - down - up)
        times = (record.train_seconds, down, up, idle)
        spent.append(Spent(record.round, device, *times, record.bytes_down, record.bytes_up, record.train_seconds))
        server[record.round] = record.aggregate_seconds + record.held_out_seconds
    return spent, server


def power_of(device: str, given: Assumptions) -> str:
    """The table's name for a device of the clock, such as gpu_t4 for T4; the config's where it has no such name."""
    name = device.lower().replace(" ", "_")
    known = (each for each in (name, f"gpu_{name}") if f"{each}_compute" in given.constants)
    return next(known, given.device)


def _device(constants: Mapping[str, Constant], settings: CarbonConfig, config: Config) -> str:
    if settings.device is not None:
        return check_device(constants, settings.device, "carbon.device")
    table = None if config.simulation is None else config.simulation.devices
    if table not in DEVICES:
        where = "the nodes of a deployment" if table is None else f"the devices of simulation.devices={table}"
        raise UserError(f"carbon.device: the power of {where} is not known. Give a name of the table of constants.")
    return DEVICES[table]


def _at(home: Place, spent: Spent) -> ClientWork:
    share = home.share
    return ClientWork(
        round=spent.round,
        country=home.country,
        intensity=home.intensity,
        device=spent.device,
        compute_s=share * spent.compute_s,
        download_s=share * spent.download_s,
        upload_s=share * spent.upload_s,
        idle_s=share * spent.idle_s,
        bytes_down=share * spent.bytes_down,
        bytes_up=share * spent.bytes_up,
    )
