"""Which device and network each client has, where it lives, and when it is there: drawn once, by the run's seed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from asr_fed.config.simulation import SimulationConfig
from asr_fed.simulation.tables import Availability, Device, Network, read_availability, read_devices, read_network
from asr_fed.system.randomness import derived_seed

DAY = 86400.0  # seconds
HOUR = 3600.0


@dataclass(frozen=True)
class Hardware:
    """A client's device, its speeds in bytes a second, and its hours from UTC."""

    device: Device
    down: float
    up: float
    zone: float


@dataclass
class Fleet:
    """A client's hardware depends on its name and the seed alone: others may come and go."""

    devices: tuple[Device, ...]
    network: Network
    availability: Availability | None
    zones: tuple[float, ...]
    seed: int
    _known: dict[str, Hardware] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def read(cls, settings: SimulationConfig, seed: int) -> "Fleet":
        """Raises UserError for a table that is missing or makes no sense."""
        availability = None if settings.availability is None else read_availability(settings.availability)
        zones = tuple(settings.zones)
        return cls(read_devices(settings.devices), read_network(settings.network), availability, zones, seed)

    def hardware(self, client: str) -> Hardware:
        if client not in self._known:
            device, network, zone = (uniform(self.seed, what, client) for what in ("device", "network", "zone"))
            bounds = accumulate(each.share for each in self.devices)
            owned = next((d for d, bound in zip(self.devices, bounds, strict=True) if device < bound), self.devices[-1])
            down, up = self.network.speeds(network)
            self._known[client] = Hardware(owned, down, up, self.zones[int(zone * len(self.zones))])
        return self._known[client]

    def those_there(self, clients: Iterable[str], at: float) -> list[str]:
        """Of these clients, in their order."""
        if self.availability is None:
            return list(clients)
        return [client for client in clients if self.is_there(client, at)]

    def is_there(self, client: str, at: float) -> bool:
        """Whether a client can be asked `at` seconds of the fleet's clock.

        Each day a client draws a number, and is there in the hours in which a larger share is.
        """
        if self.availability is None:
            return True
        local = at + HOUR * self.hardware(client).zone
        drawn = uniform(self.seed, "available", client, int(local // DAY))
        return drawn < self.availability.at(local % DAY / HOUR)


def uniform(seed: int, *place: int | str) -> float:
    """A number from 0 to below 1, the same for the same place of a run."""
    return (derived_seed(seed, *place) >> 10) / (1 << 53)
