"""Local training of a client: a function of its arguments and of nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from asr_fed.algorithms.algorithm import Algorithm
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.algorithms.fed_prox import FedProx
from asr_fed.algorithms.mime_lite import MimeLite
from asr_fed.algorithms.scaffold import Scaffold
from asr_fed.data.partition import Client
from asr_fed.model.state import freeze, layout, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.local import ClientResult, LocalTask, mean_gradient, train_client
from tests.tiny import typed_config


@pytest.fixture
def weights(context: Recognition) -> np.ndarray:
    return read_state(context.recogniser.model)


@pytest.fixture
def client(experiment: Experiment) -> Client:
    """The one with most speech: ten utterances, three batches."""
    return max(experiment.partition.clients, key=lambda client: len(client.train))


def task(
    context: Recognition, client: Client, weights: np.ndarray, *changes: str, server_round: int = 1, lr: float = 0.1
) -> LocalTask:
    config = typed_config({"federation": {"batch": {"max_utterances": 4}}}, "federation.local_epochs=1", *changes)
    return LocalTask(context, client, weights, lr, server_round, 5, config.federation)


def trained(context: Recognition, client: Client, weights: np.ndarray, *changes: str, **more: Any) -> ClientResult:
    return train_client(task(context, client, weights, *changes, **more))


def numbers(result: ClientResult) -> tuple[Any, ...]:
    return result.delta.tobytes(), result.loss, result.errors, result.num_examples


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adadelta"])
def test_neither_earlier_clients_nor_their_order_change_a_result(
    experiment: Experiment, context: Recognition, weights: np.ndarray, optimizer: str
) -> None:
    change = f"federation.optimizer._target_=torch.optim.{optimizer}"
    clients = experiment.partition.clients[:3]
    forward = {c.id: numbers(trained(context, c, weights, change)) for c in clients}
    torch.manual_seed(99)
    fresh = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
    backward = {c.id: numbers(trained(fresh, c, weights, change)) for c in reversed(clients)}
    assert forward == backward
    assert len({delta for delta, *_ in forward.values()}) == 3


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(mu=0.1), Scaffold(), MimeLite()])
def test_what_is_frozen_stays_as_it_is_in_training_too(
    experiment: Experiment, context: Recognition, client: Client, algorithm: Algorithm
) -> None:
    """Its BatchNorm does not learn from the batch, which would pass from one client to the next."""
    model = context.recogniser.model
    freeze(model, ["encoder"])
    parts, before = layout(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sent = {name: np.full(size, 1e-3, np.float32) for name, size in algorithm.sent(parts).items()}
    step = algorithm.client(task(context, client, read_state(model)), sent, {})
    assert step.result.delta.shape == (parts.length,) and np.abs(step.result.delta).max() > 0
    assert {name: len(vector) for name, vector in step.summed.items()} == algorithm.summed(parts)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not [name for name in changed if name.startswith("encoder.")]


def test_a_delta_is_what_training_added(context: Recognition, client: Client, weights: np.ndarray) -> None:
    before = weights.copy()
    result = trained(context, client, weights)
    np.testing.assert_array_equal(weights, before)  # the global weights are shared with the next client
    np.testing.assert_array_equal(result.delta, read_state(context.recogniser.model) - weights)
    cut = layout(context.recogniser.model).parameters
    assert result.delta[:cut].any() and result.delta[cut:].any()  # BatchNorm's statistics travel too
    assert result.delta.dtype == np.float32
    assert (result.num_examples, result.skipped_steps) == (10, 0)
    assert result.audio_seconds == pytest.approx(sum(u.duration for u in client.train))


def test_the_gradient_for_the_servers_moments_is_that_of_the_loss_that_clients_train_on(
    context: Recognition, client: Client, weights: np.ndarray
) -> None:
    with_ctc, without = (
        mean_gradient(task(context, client, weights, f"federation.ctc_epochs={epochs}")) for epochs in (1, 0)
    )
    head = dict(context.recogniser.model.named_parameters())["ctc_head.w.weight"].numel()
    assert np.count_nonzero(with_ctc) - np.count_nonzero(without) >= head


def test_another_round_is_another_draw(context: Recognition, client: Client, weights: np.ndarray) -> None:
    first, second = (trained(context, client, weights, server_round=number) for number in (1, 2))
    assert first.delta.tobytes() != second.delta.tobytes()


def test_the_rate_is_that_of_the_round(context: Recognition, client: Client, weights: np.ndarray) -> None:
    cut = layout(context.recogniser.model).parameters
    assert not trained(context, client, weights, lr=0.0).delta[:cut].any()
    small, large = (trained(context, client, weights, lr=lr).delta[:cut] for lr in (0.01, 0.1))
    assert np.linalg.norm(large) > 3 * np.linalg.norm(small)


def test_the_loss_is_that_of_the_last_local_epoch(context: Recognition, client: Client, weights: np.ndarray) -> None:
    once, often = (trained(context, client, weights, f"federation.local_epochs={count}").loss for count in (1, 6))
    assert 0 < often < 0.95 * once


def test_local_steps_replace_epochs(context: Recognition, client: Client, weights: np.ndarray) -> None:
    def steps(count: int) -> ClientResult:
        return trained(context, client, weights, f"federation.local_steps={count}", "federation.local_epochs=7")

    for epochs in (1, 2):
        by_epochs = trained(context, client, weights, f"federation.local_epochs={epochs}")
        assert steps(3 * epochs).delta.tobytes() == by_epochs.delta.tobytes()
    audio = [steps(count).audio_seconds for count in (1, 2, 3, 4)]
    assert audio == sorted(set(audio))
    assert audio[2] == pytest.approx(sum(u.duration for u in client.train))


def test_ctc_takes_part_as_long_as_told(context: Recognition, client: Client, weights: np.ndarray) -> None:
    def head(*changes: str) -> torch.Tensor:
        trained(context, client, weights, "federation.local_epochs=2", *changes)
        return context.recogniser.model.ctc_head.w.weight.detach().clone()

    def start() -> torch.Tensor:
        trained(context, client, weights, lr=0.0)
        return context.recogniser.model.ctc_head.w.weight.detach().clone()

    never, once, always = head("federation.ctc_epochs=0"), head("federation.ctc_epochs=1"), head()
    assert torch.equal(never, start())
    assert not torch.equal(once, never) and not torch.equal(always, once)


def test_frozen_batch_norm_normalises_by_what_it_was_sent(
    context: Recognition, client: Client, weights: np.ndarray
) -> None:
    """Statistics stay, scale and shift learn, and a batch is no longer normalised by itself."""
    parts = layout(context.recogniser.model)
    cut, starts = parts.parameters, dict(zip(parts.names, np.cumsum([0, *parts.sizes]), strict=False))
    norm = "encoder.crdnn.DNN.block_0.norm.norm"
    shifted = weights.copy()
    shifted[starts[f"{norm}.running_mean"]] += np.float32(0.5)
    always, frozen = ("federation.freeze_batch_norm=false",), ("federation.freeze_batch_norm=true",)

    def moved(start: np.ndarray, change: tuple[str, ...]) -> np.ndarray:
        return trained(context, client, start, *change).delta

    assert moved(weights, always)[cut:].any() and not moved(weights, frozen)[cut:].any()
    assert moved(weights, frozen)[starts[f"{norm}.weight"]]
    np.testing.assert_array_equal(moved(shifted, always)[:cut], moved(weights, always)[:cut])
    assert not np.array_equal(moved(shifted, frozen)[:cut], moved(weights, frozen)[:cut])


def test_errors_are_counted_on_the_own_dev_part_or_else_on_the_training_part(
    context: Recognition, client: Client, weights: np.ndarray
) -> None:
    def words(part: tuple) -> int:
        return sum(len(utterance.text.split()) for utterance in part)

    assert client.dev == ()
    assert trained(context, client, weights).errors.units == words(client.train)
    split = Client(client.id, client.train[:7], client.train[7:])
    result = trained(context, split, weights)
    assert result.errors.units == words(client.train[7:])
    assert result.num_examples == 7


def test_partial_work_is_the_first_steps_of_the_whole(
    context: Recognition, client: Client, weights: np.ndarray
) -> None:
    def first(most_steps: int | None, *changes: str) -> ClientResult:
        return train_client(replace(task(context, client, weights, *changes), most_steps=most_steps))

    two = "federation.local_epochs=2"  # of three batches each
    whole = first(None, two)
    assert whole.steps == 6
    assert numbers(first(6, two)) == numbers(first(99, two)) == numbers(whole)
    assert numbers(first(3, two)) == numbers(first(None))
    for most in (1, 2, 4, 5):
        assert first(most, two).steps == most
    assert first(2, "federation.local_steps=5").steps == 2 and first(9, "federation.local_steps=5").steps == 5
