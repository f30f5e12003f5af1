"""A client's own copy: what may change in it, and that nobody else's copy changes it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from asr_fed.config.schema import Decoder, Tune
from asr_fed.data.partition import Client
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.model.state import layout, load_state, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.tasks.personalise import Gain, personalise_client
from asr_fed.tasks.recognition import Recognition
from tests.model.test_tuning import CONFORMER
from tests.tiny import typed_config

RANK = "personalisation.lora_rank=2"


@pytest.fixture
def weights(context: Recognition) -> np.ndarray:
    return read_state(context.recogniser.model)


@pytest.fixture
def clients(experiment: Experiment) -> list[Client]:
    """Each holds its last two utterances back."""
    return [replace(c, train=c.train[:-2], dev=c.train[-2:]) for c in experiment.partition.clients[:3]]


def personalised(context: Recognition, client: Client, weights: np.ndarray, *changes: str) -> Gain:
    config = typed_config({}, "personalisation.epochs=2", "personalisation.lr=0.01", RANK, *changes)
    return personalise_client(
        context,
        client,
        weights,
        config=config.personalisation,
        decoder=Decoder.ctc_greedy,
        seed=5,
    )


def tensors(context: Recognition) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in context.recogniser.model.state_dict().items()}


@pytest.mark.parametrize("part", [part.name for part in Tune if part is not Tune.adapters])
def test_neither_earlier_clients_nor_their_order_change_a_copy(
    experiment: Experiment, context: Recognition, weights: np.ndarray, clients: list[Client], part: str
) -> None:
    def each(context: Recognition, order: list[Client]) -> dict[str, tuple[Any, ...]]:
        return {
            client.id: (
                personalised(context, client, weights, f"personalisation.part={part}"),
                read_state(context.recogniser.model).tobytes(),
            )
            for client in order
        }

    forward = each(context, clients)
    torch.manual_seed(99)
    fresh = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
    assert each(fresh, clients[::-1]) == forward
    assert len({copy for _, copy in forward.values()}) == len(clients)
    assert all(parameter.requires_grad for parameter in context.recogniser.model.parameters())


def test_it_is_evaluated_on_what_it_held_back_before_and_after(
    context: Recognition, weights: np.ndarray, clients: list[Client]
) -> None:
    client, evaluation = clients[0], typed_config({}).evaluation
    gain = personalised(context, client, weights, "personalisation.epochs=5", "personalisation.lr=0.1")
    assert gain.after != gain.before, "the test needs a copy that hears otherwise"

    def evaluate_copy() -> Any:
        return evaluate(context.recogniser, client.dev, context.cache, Decoder.ctc_greedy, evaluation, context.device)

    assert gain.after == evaluate_copy()
    load_state(context.recogniser.model, weights)
    assert gain.before == evaluate_copy()
    assert {each.utterance for each in gain.after.scored} == set(client.dev)


def test_the_head_alone_leaves_everything_else_with_its_statistics(
    context: Recognition, weights: np.ndarray, clients: list[Client]
) -> None:
    before = tensors(context)
    personalised(context, clients[0], weights, "personalisation.part=head")
    changed = {name for name, tensor in tensors(context).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith(("ctc_head.", "decoder_head."))}


def test_biases_and_normalisation_alone_leave_all_matrices(
    context: Recognition, weights: np.ndarray, clients: list[Client]
) -> None:
    before = tensors(context)
    personalised(context, clients[0], weights, "personalisation.part=norm_bias")
    after = tensors(context)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed and all(before[name].ndim <= 1 for name in changed)
    assert any("running_mean" in name for name in changed)
    assert not {"feature_mean", "feature_deviation"} & changed
    assert {name for name in changed if "bias" in name}


@pytest.mark.parametrize(("part", "adapters"), [("lora", 0), ("adapters", 2)])
def test_lora_and_adapters_change_little_of_a_conformer_and_leave_its_state_in_order(
    experiment: Experiment, clients: list[Client], part: str, adapters: int
) -> None:
    """LoRA is merged into the weights, and changes each by a matrix of its rank."""
    model_config = typed_config({}, *CONFORMER, f"model.adapters={adapters}").model
    own = replace(experiment, config=replace(experiment.config, model=model_config))
    context = own.recognition(own.fresh_recogniser(), torch.device("cpu"))
    weights, parts, before = read_state(context.model), layout(context.model), tensors(context)
    copies = []
    for client in (clients[0], clients[1], clients[0]):
        personalised(context, client, weights, f"personalisation.part={part}")
        copies.append(read_state(context.model).tobytes())
        assert layout(context.model) == parts
    assert copies[0] == copies[2] != copies[1]
    deltas = {name: after - before[name] for name, after in tensors(context).items()}
    moved = {name: delta for name, delta in deltas.items() if delta.any()}
    assert moved and all(".adapter." in name if adapters else "weight" in name for name in moved)
    if not adapters:
        assert {int(torch.linalg.matrix_rank(delta, rtol=1e-3)) for delta in moved.values()} <= {1, 2}
    assert all(parameter.requires_grad for parameter in context.model.parameters())


def test_a_part_that_the_model_does_not_have_is_refused(
    context: Recognition, weights: np.ndarray, clients: list[Client]
) -> None:
    with pytest.raises(UserError, match=r"personalisation\.part=adapters leaves no part"):
        personalised(context, clients[0], weights, "personalisation.part=adapters")
    assert all(parameter.requires_grad for parameter in context.recogniser.model.parameters())


def test_without_epochs_nothing_changes(context: Recognition, weights: np.ndarray, clients: list[Client]) -> None:
    gain = personalised(context, clients[0], weights, "personalisation.epochs=0")
    assert gain.after == gain.before
    assert read_state(context.recogniser.model).tobytes() == weights.tobytes()


def test_a_client_without_held_back_speech_is_an_error(
    context: Recognition, weights: np.ndarray, clients: list[Client]
) -> None:
    with pytest.raises(ValueError, match="0 held back"):
        personalised(context, replace(clients[0], dev=()), weights)
