"""Our strategy under Flower's own loop: what its rounds give, and that a stock Flower app runs with it."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from asr_fed.aggregation.server_optimizer import FedAvgM, ServerOptimizer
from asr_fed.aggregation.weighting import LossSoftmax, NumExamples, WerSoftmax
from asr_fed.interop.flower_strategy import WeightedStrategy
from asr_fed.wire.flower_private import identify_process, set_message_id

START = {"layer": np.float32([[1, 2], [3, 4]]), "running_mean": np.float32([5]), "counter": np.int64([7])}
# Of each client: the change of its weights, its number of examples, WER and loss.
CLIENTS = {1: (1.0, 10, 0.1, 30.0), 2: (-2.0, 30, 0.8, 31.0), 3: (0.5, 20, 0.5, 29.0)}


class Network:
    """A grid of three ordinary ClientApps."""

    def __init__(self) -> None:
        identify_process(run_id=1, node_id=0)
        self.replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(CLIENTS)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for number, message in enumerate(messages):
            set_message_id(message, str(number))
            node = message.metadata.dst_node_id
            change, examples, wer, loss = CLIENTS[node]
            arrays: Any = message.content["arrays"]
            trained = {
                name: array.numpy() + np.array(change).astype(array.numpy().dtype) for name, array in arrays.items()
            }
            metrics = MetricRecord({"num-examples": examples, "wer": wer, "loss": loss})
            content = {"arrays": ArrayRecord({name: Array(own) for name, own in trained.items()}), "metrics": metrics}
            identify_process(run_id=1, node_id=node)
            replies.append(Message(RecordDict(content), reply_to=message))
            identify_process(run_id=1, node_id=0)
        return replies


def rounds(weighting: Any, number: int = 1, optimizer: ServerOptimizer | None = None) -> Any:
    strategy = WeightedStrategy(weighting, optimizer, plain=["running_mean"], fraction_evaluate=0.0)
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    return strategy.start(Network(), arrays, num_rounds=number, train_config=ConfigRecord())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        (NumExamples(), [10, 30, 20]),
        (WerSoftmax(), np.exp([0.9, 0.2, 0.5])),
        (LossSoftmax(), np.exp([-30.0, -31.0, -29.0])),
    ],
)
def test_flowers_loop_gives_the_weighted_mean(weighting: Any, weights: list[float]) -> None:
    result = rounds(weighting)
    change = np.average([change for change, *_ in CLIENTS.values()], weights=weights)
    np.testing.assert_allclose(result.arrays["layer"].numpy(), START["layer"] + change, rtol=1e-6)
    np.testing.assert_allclose(result.arrays["running_mean"].numpy(), START["running_mean"] + change, rtol=1e-6)
    assert result.arrays["counter"].numpy() == START["counter"], "whole numbers stay"
    metrics = result.train_metrics_clientapp[1]
    assert metrics["effective-clients"] == pytest.approx(np.sum(weights) ** 2 / np.square(weights).sum())


def test_the_optimizer_moves_parameters_and_running_means_take_the_plain_mean() -> None:
    """FedAvgM with the same mean delta d twice: w + d + (m + 1) d."""
    result = rounds(NumExamples(), 2, FedAvgM(server_momentum=0.5))
    change = np.average([change for change, *_ in CLIENTS.values()], weights=[10, 30, 20])
    np.testing.assert_allclose(result.arrays["layer"].numpy(), START["layer"] + 2.5 * change, rtol=1e-5)
    np.testing.assert_allclose(result.arrays["running_mean"].numpy(), START["running_mean"] + 2 * change, rtol=1e-5)


def test_a_reply_that_is_not_finite_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CLIENTS, 2, (float("nan"), 30, 0.8, float("nan")))
    with np.errstate(invalid="ignore"):
        result = rounds(LossSoftmax())
    weights = np.exp([-30.0, -29.0])
    np.testing.assert_allclose(
        result.arrays["layer"].numpy(), START["layer"] + np.average([1.0, 0.5], weights=weights), rtol=1e-6
    )
    assert "the reply of node 2 is left out" in caplog.text


def test_a_stock_flower_app_in_flowers_own_simulation(tmp_path: Path) -> None:
    """The twenty lines of docs/flower.md, as they stand there."""
    pytest.importorskip("ray")
    page = Path("docs/flower.md").read_text(encoding="utf-8")
    code = page.split("```python")[1].split("```")[0]
    (tmp_path / "app.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "app.py")], cwd=Path.cwd(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    final = float(done.stdout.split("final weight:")[1].split()[0])
    assert final == pytest.approx(2.0, abs=0.1), "three clients pull towards 1, 2 and 3"
