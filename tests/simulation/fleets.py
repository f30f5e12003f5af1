"""A small fleet whose times can be worked out by hand."""

from typing import Any

from asr_fed.config.simulation import MachineConfig, SimulationConfig
from asr_fed.simulation.clock import Clock, Work
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.tables import Availability, Device, Network

MEGABYTE = 10**6


def clock(
    *,
    devices: tuple[Device, ...] = (Device("slow", 0.5, 4.0), Device("fast", 0.5, 1.0)),
    by_hour: Any = None,
    **more: Any,
) -> Clock:
    """1 MB down and 2 MB up at 1 MB/s; a step takes 1 s, a second of audio 1 s to train and 0.5 s to decode."""
    reference = MachineConfig(parameters=1000, step_seconds=1.0, train_seconds=1.0, decode_seconds=0.5)
    settings = SimulationConfig(**({"latency": 0.0, "server_seconds": 3.0, "reference": reference} | more))
    availability = None if by_hour is None else Availability(tuple(by_hour))
    network = Network((0.5,), (1.0 * MEGABYTE,), (1.0 * MEGABYTE,))
    return Clock(
        settings, Fleet(devices, network, availability, tuple(settings.zones), 7), 1000, MEGABYTE, 2 * MEGABYTE
    )


WORK = Work(steps=4, trained_s=6.0, decoded_s=2.0)  # 4 + 6 + 1 = 11 s on a fast device, 44 s on a slow one
