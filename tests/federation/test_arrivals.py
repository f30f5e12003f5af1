"""The asynchronous mode over nodes that answer when they do: who is asked again, and what becomes of old updates."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flwr.app import Message, MessageType

from asr_fed.aggregation.update import Update
from asr_fed.federation import arrivals
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import FederationState
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord
from asr_fed.system.errors import UserError
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.rounds import read_order
from tests.federation.test_rounds import InProcess, Interrupted, burnt_down, make, run

__all__ = ["make"]  # a fixture

# Node 1 has three clients, node 2 two. The first one's answer alone makes a step.
BUFFERED = ("federation.cohort=null", "federation.buffer=3", "federation.rounds=4")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LOOK", 0.0)


class Pinned(InProcess):
    """Node 2 answers as `second` says. `asked`: node, round, and weights of each order."""

    def __init__(self, experiment: Experiment, second: Callable[[Message], Message | None] | None = None) -> None:
        super().__init__(experiment, pinned=True)
        self.second = second or self.whole
        self.asked: list[tuple[int, int, bytes]] = []

    def push_messages(self, messages: Any) -> list[str]:
        messages = list(messages)
        for message in messages:
            if message.metadata.message_type == MessageType.TRAIN:
                order = read_order(message, self.plain.shape.sent)
                self.asked.append((message.metadata.dst_node_id, order.server_round, order.weights.tobytes()))
        return super().push_messages(messages)

    def answer(self, message: Message) -> Message | None:
        if message.metadata.dst_node_id == 2 and message.metadata.message_type == MessageType.TRAIN:
            return self.second(message)
        return self.whole(message)

    def whole(self, message: Message) -> Message | None:
        return super().answer(message)

    def of(self, node: int) -> list[int]:
        """The rounds of the orders that it was sent."""
        return [server_round for asked, server_round, _ in self.asked if asked == node]


def federate(experiment: Experiment, grid: InProcess, **more: Any) -> FederationState:
    return run_federation(experiment, RemoteNodes(grid), **more)  # type: ignore[arg-type]


def test_a_node_is_asked_again_while_another_one_works_whose_update_then_counts_by_its_age(
    make: Callable[..., Experiment],
) -> None:
    experiment = make(*BUFFERED)

    def when_three_steps_were_made(message: Message) -> Message | None:
        return grid.whole(message) if "4" in grid.rates else None

    grid = Pinned(experiment, when_three_steps_were_made)
    state = federate(experiment, grid)
    assert grid.of(1) == [1, 2, 3, 4] and grid.of(2) == [1]
    assert [record.clients for record in state.history] == [3, 3, 3, 5]
    assert [record.staleness for record in state.history] == [0, 0, 0, pytest.approx(2 * 3 / 5)]
    sent = {server_round: weights for _, server_round, weights in grid.asked}
    assert len(set(sent.values())) == 4, "each with the newest weights"
    last = state.history[-1]
    assert {worker.node for worker in last.workers} == {1, 2} and not last.failures and last.success == 1
    assert last.bytes_down < last.bytes_up < 3 * last.bytes_down, "one order, two updates"


def test_a_buffer_of_everybody_is_a_round_in_every_bit(make: Callable[..., Experiment]) -> None:
    rounds = run(make("federation.cohort=null", name="rounds"))
    experiment = make("federation.cohort=null", "federation.buffer=5", name="buffer")
    buffered = federate(experiment, InProcess(experiment))
    assert buffered.weights.tobytes() == rounds.weights.tobytes()
    assert [record.staleness for record in buffered.history] == [0, 0, 0]
    assert [record.wer for record in buffered.history] == [record.wer for record in rounds.history]


def test_a_node_that_answers_more_often_has_no_more_votes(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client is at work at a time, and four of five make a step."""
    votes: list[tuple[int, int]] = []
    really = arrivals.combine

    def noted(updates: Sequence[Update], *more: Any) -> Update:
        votes.append((len(updates), sum(update.totals["clients"] for update in updates)))
        return really(updates, *more)

    monkeypatch.setattr(arrivals, "combine", noted)
    experiment = make("federation.cohort=1", "federation.buffer=4", "federation.rounds=1")
    grid = Pinned(experiment)
    federate(experiment, grid)
    assert len(grid.asked) == 4 and votes == [(2, 4)]


def test_a_killed_server_goes_on_from_its_last_step_and_asks_everybody_again(make: Callable[..., Experiment]) -> None:
    experiment = make(*BUFFERED)
    grids = []

    def begin() -> Pinned:
        grids.append(Pinned(experiment, lambda message: None))
        return grids[-1]

    def stop(history: Sequence[RoundRecord]) -> None:
        if len(history) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        federate(experiment, begin(), on_round=stop)
    state = federate(experiment, begin())
    assert [record.round for record in state.history] == [1, 2, 3, 4]
    first, second = grids
    assert first.of(1) == [1, 2] and second.of(1) == [3, 4] and second.of(2) == [3]
    straight = federate(make(*BUFFERED, name="straight"), Pinned(experiment, lambda message: None))
    assert state.weights.tobytes() == straight.weights.tobytes(), "here nothing was lost"


def leaves(grid: Pinned, message: Message) -> Message | None:
    grid.nodes = [1]
    return None


def answers_the_first_order_again(grid: Pinned, message: Message) -> Message | None:
    grid.first = getattr(grid, "first", None) or grid.whole(message)  # type: ignore[attr-defined]
    return Message(grid.first.content, reply_to=message)  # type: ignore[attr-defined]


FAULTS: dict[str, tuple[Callable[[Pinned, Message], Message | None], str]] = {
    "an error": (lambda grid, message: burnt_down(message), "the silo burnt down"),
    "it leaves": (leaves, "no node that hosts it is there"),
    "silence": (lambda grid, message: None, "its node did not answer in time"),
    "an answer to another order": (answers_the_first_order_again, "its node did not answer in time"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_node_from_which_nothing_comes_rests_and_holds_up_nobody(name: str, make: Callable[..., Experiment]) -> None:
    fault, reason = FAULTS[name]
    experiment = make(*BUFFERED, *["federation.round_timeout=0.001"] * (name == "silence"))
    grid = Pinned(experiment, lambda message: fault(grid, message))
    state = federate(experiment, grid)
    assert [record.round for record in state.history] == [1, 2, 3, 4]
    failed = [record for record in state.history if record.failures]
    assert len(failed) == 1 and set(failed[0].failures.values()) == {reason}
    assert failed[0].success == pytest.approx(3 / 5) and len(grid.of(2)) <= 2 and len(grid.of(1)) == 4
    assert sum(record.dropped for record in state.history) == (name == "an answer to another order")


def test_after_its_rest_a_node_is_asked_again(make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer needs both nodes."""
    monkeypatch.setattr(arrivals, "REST", 0.0)
    experiment = make(*BUFFERED, "federation.buffer=4", "federation.rounds=1")
    grid = Pinned(experiment, lambda message: burnt_down(message) if len(grid.of(2)) == 1 else grid.whole(message))
    state = federate(experiment, grid)
    assert grid.of(2) == [1, 1] and state.history[0].clients == 5 and not state.history[0].failures


def test_nothing_but_failures_stops_the_run_by_name(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "REST", 0.0)
    experiment = make(*BUFFERED)
    broken = InProcess(experiment, weighting=lambda result: float("nan"))
    with pytest.raises(UserError, match=r"Step 1: nothing came but failures, 15 in a row.*a weight of nan.*resumed"):
        federate(experiment, broken)
    assert len(federate(experiment, InProcess(experiment)).history) == 4


def test_nobody_to_ask_stops_the_run_after_a_while(make: Callable[..., Experiment]) -> None:
    experiment = make(*BUFFERED, "engine.wait=0.2")
    grid = InProcess(experiment)

    def leave(history: Sequence[RoundRecord]) -> None:
        grid.nodes = []

    with pytest.raises(UserError, match="Nobody can be asked for step 2.*resumed"):
        federate(experiment, grid, on_round=leave)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("federation.buffer=6", "federation.buffer=6 is more than the 5 clients"),
        ("algorithm._target_=asr_fed.algorithms.scaffold.Scaffold", "sends control too"),
    ],
)
def test_what_it_cannot_do_is_refused(change: str, wrong: str, make: Callable[..., Experiment]) -> None:
    experiment = make(*BUFFERED, change)
    with pytest.raises(UserError, match=wrong):
        federate(experiment, InProcess(experiment))
