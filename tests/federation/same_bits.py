"""One experiment on two nodes, on one, and killed after every round: each has to end in the same bits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from flwr.app import Message, MessageType

from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import FederationState
from asr_fed.runs.records import RoundRecord
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import Order
from asr_fed.wire.rounds import read_order
from tests.federation.test_rounds import InProcess, Interrupted, run, untimed


class OneNode(InProcess):
    def __init__(self, experiment: Any) -> None:
        super().__init__(experiment)
        self.nodes = [1]


@dataclass(frozen=True)
class Compared:
    straight: Any
    alone: Any
    killed: Any
    expected: FederationState
    resumed: FederationState


def same_bits(
    make: Callable[..., Any],
    changes: Sequence[str],
    kills: int = 1,
    after_kill: Callable[[Any], None] | None = None,
) -> Compared:
    """Runs `changes` in the three ways; the third is killed `kills` times, each time after one more round."""
    straight, alone, killed = (make(*changes, name=name) for name in ("straight", "alone", "killed"))
    expected = run(straight)
    on_one = run_federation(alone, RemoteNodes(OneNode(alone)))  # type: ignore[arg-type]

    def stop(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    for _ in range(kills):
        with pytest.raises(Interrupted):
            run(killed, on_round=stop)
        if after_kill is not None:
            after_kill(killed)
    resumed = run(killed)
    for other in (on_one, resumed):
        assert other.weights.tobytes() == expected.weights.tobytes()
        assert untimed(other.history) == untimed(expected.history)
    return Compared(straight, alone, killed, expected, resumed)


def watch_orders(grid: InProcess) -> list[Order]:
    """Orders to train, which are added as they are sent."""
    sent: list[Order] = []
    push = grid.push_messages

    def spy(messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        sent.extend(
            read_order(message, grid.plain.shape.sent)
            for message in messages
            if message.metadata.message_type == MessageType.TRAIN
        )
        return push(messages)

    grid.push_messages = spy  # type: ignore[method-assign]
    return sent
