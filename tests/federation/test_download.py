"""Global weights that go down in 16 bits: the same result everywhere, half of the bytes, all bits at the server."""

from collections.abc import Callable

import numpy as np
import pytest

from asr_fed.aggregation.codec import from_bfloat16, to_bfloat16
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import load_federation
from asr_fed.model.state import layout
from asr_fed.runs.experiment import Experiment
from asr_fed.simulation.record import read_client_times
from asr_fed.wire.hosts import RemoteNodes
from tests.federation.same_bits import same_bits, watch_orders
from tests.federation.test_rounds import InProcess, make, run
from tests.federation.test_virtual import PHONES

__all__ = ["make"]  # a fixture

HALVES = ("federation.cohort=null", "federation.rounds=2", "federation.download.bits=16")


@pytest.mark.parametrize("changes", [(), ("algorithm._target_=asr_fed.algorithms.scaffold.Scaffold",)])
def test_the_same_bits_on_any_node_and_after_a_kill(make: Callable[..., Experiment], changes: tuple[str, ...]) -> None:
    same_bits(make, (*HALVES, *changes))


def test_clients_start_from_rounded_parameters_and_the_server_keeps_its_own(make: Callable[..., Experiment]) -> None:
    experiment = make(*HALVES)
    grid = InProcess(experiment)
    sent = watch_orders(grid)
    after: list[np.ndarray] = [run(make(*HALVES, "federation.rounds=0", name="begin")).weights]
    half = run_federation(
        experiment,
        RemoteNodes(grid),  # type: ignore[arg-type]
        lambda history: after.append(load_federation(experiment.checkpoints / "federation.pt").weights),
    )
    parameters = layout(grid.plain.training.model).parameters
    assert {order.server_round for order in sent} == {1, 2}
    for order in sent:
        own, weights = after[order.server_round - 1], order.weights
        rounded = from_bfloat16(to_bfloat16(own[:parameters]))
        assert weights[:parameters].tobytes() == rounded.tobytes() != own[:parameters].tobytes()
        assert weights[parameters:].tobytes() == own[parameters:].tobytes(), "buffers are sent whole"
    full = run(make(*HALVES, "federation.download.bits=null", name="full"))
    assert half.weights.tobytes() != full.weights.tobytes()
    assert half.history[0].bytes_down < 0.62 * full.history[0].bytes_down  # headers weigh more in a tiny model
    assert half.history[0].loss == pytest.approx(full.history[0].loss, rel=0.05)


def test_the_clock_of_a_fleet_counts_them(make: Callable[..., Experiment]) -> None:
    def bytes_down(*changes: str, name: str) -> tuple[int, int]:
        experiment = make(*PHONES, "federation.rounds=1", "federation.cohort=1", *changes, name=name)
        record = run(experiment).history[0]
        (row,) = read_client_times(experiment.run_dir)
        return row.bytes_down, record.bytes_down

    full, half = bytes_down(name="full"), bytes_down("federation.download.bits=16", name="half")
    assert half[0] < 0.6 * full[0] and half[0] == pytest.approx(half[1], rel=0.1)
