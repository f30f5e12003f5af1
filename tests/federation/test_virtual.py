"""Rounds by the clock of a simulated fleet: the same bits on any worker and after a kill; who arrives is trained."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.algorithms.mime_lite import MimeLite
from asr_fed.config.schema import BatchConfig, FederationConfig
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import FederationState, load_federation
from asr_fed.federation.virtual import remember, virtual_time, work_of
from asr_fed.pipeline import other_fleet
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord
from asr_fed.simulation.clock import Work
from asr_fed.simulation.record import CLIENTS, ROUNDS, read_client_times, read_round_times
from asr_fed.system.errors import UserError
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import ClientSize
from tests.federation.same_bits import same_bits, watch_orders
from tests.federation.test_rounds import InProcess, Interrupted, make, run
from tests.simulation.fleets import clock

__all__ = ["make"]  # a fixture

# A slow phone needs about 4 s for what a fast one does in 1.
PHONES = (
    "simulation.devices=phones",
    "simulation.network=20",
    "simulation.reference={parameters: 1000, step_seconds: 0.05, train_seconds: 0.01, decode_seconds: 0.01}",
    "federation.cohort=null",
)


def times(experiment: Experiment) -> tuple[str, str]:
    first, second = (experiment.run_dir / name for name in (CLIENTS, ROUNDS))
    return first.read_text(), second.read_text()


def median_time(make: Callable[..., Experiment]) -> float:
    """A tau that about half of the clients keep."""
    waiting = make(*PHONES, "federation.rounds=1", name="waiting")
    run(waiting)
    busy = sorted(each.busy_s for each in read_client_times(waiting.run_dir))
    return (busy[len(busy) // 2 - 1] + busy[len(busy) // 2]) / 2


@pytest.mark.parametrize("late", ["drop", "partial"])
def test_one_node_two_nodes_and_a_resumed_run_end_in_the_same_bits(make: Callable[..., Experiment], late: str) -> None:
    changes = (*PHONES, f"simulation.late={late}", f"simulation.tau={median_time(make)}")

    def leave_half_a_row(run: Experiment) -> None:
        with (run.run_dir / CLIENTS).open("a") as file:
            file.write("9,a row of a round that was not finished")

    ran = same_bits(make, changes, kills=2, after_kill=leave_half_a_row)
    assert times(ran.alone) == times(ran.killed) == times(ran.straight)
    assert [record.round for record in read_round_times(ran.straight.run_dir)] == [1, 2, 3]
    assert ran.resumed.fleet_s == read_round_times(ran.straight.run_dir)[-1].end_s > 0


def test_a_run_without_rounds_has_no_time_that_another_fleet_could_change(
    make: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(*PHONES, "federation.rounds=0")
    run(experiment)
    monkeypatch.setattr(other_fleet, "read_summary", lambda run_dir: None)  # the test has none
    new = replace(experiment.config, run_dir=str(tmp_path / "new"))
    with pytest.raises(UserError, match="no rounds whose time could be told"):
        other_fleet.account_again(experiment.run_dir, new, "")


@pytest.mark.parametrize(("most", "batches"), [(None, 5), (2, 2), (9, 5)])
def test_the_gradient_that_mime_lite_makes_before_training_takes_its_time(most: int | None, batches: int) -> None:
    settings, size = FederationConfig(local_epochs=2, batch=BatchConfig(max_utterances=4)), ClientSize(20, 60.0, 10.0)
    plain = work_of(size, settings, FedAvg())
    assert plain == Work(steps=10, trained_s=120.0, decoded_s=10.0)
    work = work_of(size, settings, MimeLite(gradient_batches=most))
    assert work == replace(plain, before_steps=batches, before_s=12.0 * batches)
    own = clock()
    reference, course = own.settings.reference, own.course("anna", work)
    slower = own.fleet.hardware("anna").device.slowdown * own.size
    more = slower * batches * (reference.step_seconds + 12.0 * reference.train_seconds)
    assert course.compute_s - own.course("anna", plain).compute_s == pytest.approx(more) and more > 0
    part = own.within("anna", work, course.total_s - 1e-6)
    assert part is not None and part.steps == 9, "of the steps, not of the gradient, some are left out"


def test_who_is_dropped_is_not_trained(make: Callable[..., Experiment]) -> None:
    experiment = make(*PHONES, "simulation.late=drop", f"simulation.tau={median_time(make)}")
    state = run(experiment)
    for record in state.history:
        rows = [each for each in read_client_times(experiment.run_dir) if each.round == record.round]
        arrived = [each for each in rows if each.arrived]
        assert len(rows) == 5 and 0 < len(arrived) < 5
        assert record.clients == len(arrived) and not record.failures and record.success == 1


def test_partial_work_makes_fewer_steps_and_weighs_less(make: Callable[..., Experiment]) -> None:
    def trained(*changes: str, name: str) -> FederationState:
        return run(make(*PHONES, "federation.rounds=1", "federation.local_epochs=3", *changes, name=name))

    whole = trained(name="whole")
    tau = max(each.busy_s for each in read_client_times(make(name="whole").run_dir)) * 0.6
    part = trained("simulation.late=partial", f"simulation.tau={tau}", name="part")
    rows = read_client_times(make(name="part").run_dir)
    assert min(each.share_of_work for each in rows) < 1 == max(each.share_of_work for each in rows)
    assert part.history[0].audio_seconds < whole.history[0].audio_seconds
    shares = sum(each.share_of_work for each in rows if each.arrived)
    assert part.history[0].weight_sum == pytest.approx(shares, abs=1e-6)  # uniform weights: 1 for a whole round


def test_the_bytes_of_the_clock_are_those_on_the_wire(make: Callable[..., Experiment]) -> None:
    """On the wire they are fewer where a block of small entries needs fewer bytes."""
    experiment = make(*PHONES, "federation.rounds=1", "federation.cohort=1")
    record = run(experiment).history[0]
    (row,) = read_client_times(experiment.run_dir)
    assert row.bytes_down == pytest.approx(record.bytes_down, rel=0.05)
    assert 0.7 * row.bytes_up <= record.bytes_up <= 1.05 * row.bytes_up


def test_the_clock_counts_coarser_uploads(make: Callable[..., Experiment]) -> None:
    def bytes_up(*changes: str, name: str) -> int:
        experiment = make(*PHONES, "federation.rounds=1", "federation.cohort=1", *changes, name=name)
        run(experiment)
        (row,) = read_client_times(experiment.run_dir)
        return row.bytes_up

    exact, eight = bytes_up(name="exact"), bytes_up("federation.upload.bits=8", name="eight")
    assert eight == pytest.approx(exact / 4, rel=0.02)


def test_without_a_clock_nothing_of_it_is_there(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=1")
    state = run(experiment)
    assert state.history[0].fleet_seconds is None
    assert not (experiment.run_dir / CLIENTS).exists() and not (experiment.run_dir / ROUNDS).exists()


def test_a_tau_that_nobody_keeps_ends_the_run_before_a_round(make: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment: Any = make(*PHONES, "simulation.late=drop", "simulation.tau=0.001")
    grid = InProcess(experiment)
    with pytest.raises(UserError, match="below every client's time"):
        run_federation(experiment, RemoteNodes(grid))  # type: ignore[arg-type]
    assert not grid.rates
    with pytest.raises(UserError, match="below every client's time"):
        virtual_time(experiment)  # and before the warm start is trained
    virtual_time(make(*PHONES))


BUFFERED = (*PHONES, "federation.cohort=4", "simulation.buffer=2", "federation.rounds=6")


def test_asynchronous_rounds_end_in_the_same_bits_on_one_node_two_nodes_and_resumed(
    make: Callable[..., Experiment],
) -> None:
    ran = same_bits(make, BUFFERED, kills=4)
    assert times(ran.alone) == times(ran.killed) == times(ran.straight)
    rows = read_client_times(ran.straight.run_dir)
    assert max(each.staleness for each in rows) > 0, "the test needs an update that is old"
    assert [record.clients for record in ran.expected.history] == [2] * 6
    assert 0 < len(ran.expected.past) <= 4, "no more versions are kept than clients are at work"


def test_an_old_update_was_trained_from_the_weights_that_its_client_was_sent(make: Callable[..., Experiment]) -> None:
    experiment = make(*BUFFERED, "federation.decay_from=0")
    grid = InProcess(experiment)
    sent = watch_orders(grid)
    after: list[Any] = [run(make(*BUFFERED, "federation.rounds=0", name="begin")).weights]
    state = run_federation(
        experiment,
        RemoteNodes(grid),  # type: ignore[arg-type]
        lambda history: after.append(load_federation(experiment.checkpoints / "federation.pt").weights),
    )
    ages = {(each.round, each.client): each.staleness for each in read_client_times(experiment.run_dir)}
    asked = [(order, name) for order in sent for name in order.clients]
    assert len(asked) == 12 and max(ages.values()) > 0
    for order, name in asked:
        version = order.server_round - 1 - ages[order.server_round, name]
        assert order.weights.tobytes() == after[version].tobytes()
        assert order.lr == state.history[version].lr
        assert name not in order.terms
    for record in state.history:
        own = [age for (server_round, _), age in ages.items() if server_round == record.round]
        assert record.staleness == sum(own) / len(own)


def test_what_the_asynchronous_mode_cannot_do_is_refused(make: Callable[..., Experiment]) -> None:
    for change, wrong in (
        ("simulation.buffer=6", "simulation.buffer=6 is more than the 5 clients"),
        ("algorithm._target_=asr_fed.algorithms.scaffold.Scaffold", "sends control too"),
    ):
        with pytest.raises(UserError, match=wrong):
            run(make(*BUFFERED, change))


def test_sampling_by_utility_goes_on_after_a_kill_as_if_there_had_been_none(make: Callable[..., Experiment]) -> None:
    changes = (*PHONES, "federation.cohort=2", "simulation.sampling=oort", "federation.rounds=5")
    straight, killed = make(*changes, name="straight"), make(*changes, name="killed")
    expected = run(straight)

    def stop(history: Sequence[RoundRecord]) -> None:
        if len(history) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(killed, on_round=stop)
    assert run(killed).weights.tobytes() == expected.weights.tobytes()
    assert times(killed) == times(straight)


def test_what_is_remembered_is_who_took_part_when_and_that_rounds_loss(make: Callable[..., Experiment]) -> None:
    experiment = make(*PHONES, "federation.cohort=2", "simulation.sampling=oort")
    state = run(experiment)
    memory = remember(experiment.run_dir, state.history)
    for each in read_client_times(experiment.run_dir):
        assert memory.last[each.client][0] >= each.round
    assert set(memory.last.values()) <= {(record.round, record.loss) for record in state.history}
