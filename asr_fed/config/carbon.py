"""Of the carbon account: where the electricity comes from, and what it is compared with."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from asr_fed.config.setting import setting


class Communication(Enum):
    """How sending and receiving is counted.

    transfer_time: seconds times (router + the device that sends or receives), arXiv 2102.07627.
    fixed, mobile: bytes times kWh per GB of the whole network, without the device.
    """

    transfer_time = "transfer_time"
    fixed = "fixed"
    mobile = "mobile"


@dataclass
class CarbonConfig:
    """What the run would emit on the devices of its clock. docs/time_and_carbon.md explains each figure.

    countries: shares of the clients, which sum to 1. intensities: the set that their electricity is taken from.
    device: whose power clients have; null: by the table that `simulation.devices` names.
    server_country, central_country: null for those of the clients, in their shares.
    central_seconds: of `central_device`, for the centralised run; null: estimated from the clients' own time.
    down_mbps, up_mbps: of the nodes of a deployment, whose transfers nobody times.
    constants: in place of those of the table, a number or [low, value, high] each.
    measure: measure this host too, with codecarbon; host_country: where it stands, null for the server's country.
    """

    countries: dict[str, float] = MISSING
    intensities: str = "grid"
    communication: Communication = Communication.transfer_time
    device: str | None = None
    server_country: str | None = None
    central_device: str = "gpu_v100"
    central_seconds: float | None = setting(None, above=0)
    central_country: str | None = None
    down_mbps: float = setting(100.0, above=0)
    up_mbps: float = setting(100.0, above=0)
    constants: dict[str, Any] = field(default_factory=dict)
    measure: bool = False
    host_country: str | None = None
