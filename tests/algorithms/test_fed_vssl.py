"""FedVSSL is the paper's loop: alpha between loss and size, beta from round 2 on, heads that stay."""

from collections.abc import Callable

import numpy as np
import pytest

from asr_fed.aggregation.server_optimizer import FedAvg, server_step
from asr_fed.aggregation.update import add_client, empty
from asr_fed.algorithms.fed_vssl import BY_LOSS, HEAD, LOSS_WEIGHT, FedVssl, entries_of
from asr_fed.data.partition import Client
from asr_fed.model.state import layout, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.tasks.learners import load_pretrainer, save_learner
from asr_fed.tasks.masked_speech import MaskedSpeech
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.local import LocalTask, train_client
from tests.federation.same_bits import same_bits
from tests.tasks.test_pretraining import either, make, task  # noqa: F401  # fixtures


def job(task: MaskedSpeech, client: Client, weights: np.ndarray, number: int, experiment: Experiment) -> LocalTask:  # noqa: F811
    settings = experiment.config.federation
    return LocalTask(task, client, weights, 0.05, number, 5, settings, reference_loss=2.5)


# Those of the paper's table.
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.9, 0.0), (0.9, 1.0)])
def test_it_is_the_papers_loop(task: MaskedSpeech, experiment: Experiment, alpha: float, beta: float) -> None:  # noqa: F811
    check_against_plain_loop(task, experiment, alpha, beta)


def test_both_projections_of_a_contrast_stay_with_the_client(either: MaskedSpeech, experiment: Experiment) -> None:  # noqa: F811
    check_against_plain_loop(either, experiment, 0.9, 1.0)


def check_against_plain_loop(task: MaskedSpeech, experiment: Experiment, alpha: float, beta: float) -> None:  # noqa: F811
    """Two rounds over three clients; a second local training per client is the plain loop's."""
    parts, clients = layout(task.model), experiment.partition.clients[:3]
    head = entries_of("head.", parts)
    assert head.sum() == sum(p.numel() for p in task.model.head.parameters())
    algorithm = FedVssl(alpha=alpha, beta=beta)
    state, kept = algorithm.init(parts), {client.id: {} for client in clients}
    theta = read_state(task.model)
    paper, paper_heads = theta.copy(), {client.id: theta[head] for client in clients}
    for number in (1, 2):
        update = empty(parts.length, algorithm.summed(parts))
        losses, sizes, backbones = [], [], []
        for client in clients:
            step = algorithm.client(job(task, client, theta, number, experiment), {}, kept[client.id])
            kept[client.id] = step.kept
            add_client(update, step.result.delta, float(len(client.train)), {}, step.summed)
            assert not step.result.delta[head].any() and not step.summed[BY_LOSS][head].any()

            begin = paper.copy()
            begin[head] = paper_heads[client.id]
            result = train_client(job(task, client, begin, number, experiment))
            end = begin + result.delta
            paper_heads[client.id] = end[head]
            np.testing.assert_allclose(step.kept[HEAD], end[head], rtol=1e-3, atol=1e-5)
            backbones.append(end)
            losses.append(result.loss)
            sizes.append(len(client.train))
        weights, _ = server_step(FedAvg(), theta, algorithm.step(state, update), {}, parts)
        state, theta = algorithm.server(state, update, len(clients)), weights

        by_loss = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
        by_size = np.array(sizes) / sum(sizes)
        tilde = np.tensordot(alpha * by_loss + (1 - alpha) * by_size, np.array(backbones), axes=1)
        new = tilde if number == 1 or beta == 0 else 0.5 * tilde + 0.5 * paper
        new[head] = paper[head]
        assert np.abs(new - paper).max() > 1e-3
        np.testing.assert_allclose(theta, new, rtol=1e-3, atol=2e-5)
        paper = theta.copy()


def test_two_nodes_one_and_a_killed_server_end_in_the_same_bits_and_the_heads_stay(
    make: Callable[..., Experiment],  # noqa: F811
) -> None:
    """Of both algorithms that pre-train: in the second round, FedVSSL's clients begin with the heads that they kept."""

    def begun(*changes: str, name: str) -> Experiment:
        own = make(*changes, name=f"{name}-{len(changes)}")
        save_learner(own.fresh_learner(), own.config, own.checkpoints / "warm_start.pt")
        return own

    plain = ("federation.held_out.epochs=0", "weighting._target_=asr_fed.aggregation.weighting.Uniform")
    fed_avg = same_bits(begun, plain)
    own = same_bits(begun, [*plain, "algorithm={_target_: asr_fed.algorithms.fed_vssl.FedVssl}"])
    assert own.expected.weights.tobytes() != fed_avg.expected.weights.tobytes()
    model = own.straight.fresh_learner().model
    head = entries_of("head.", layout(model))
    begin = read_state(load_pretrainer(own.straight.checkpoints / "warm_start.pt").model)
    np.testing.assert_array_equal(own.expected.weights[head], begin[head])
    assert (fed_avg.expected.weights[head] != begin[head]).any()


def test_alpha_one_follows_the_client_with_the_lower_loss(task: MaskedSpeech) -> None:  # noqa: F811
    parts = layout(task.model)
    algorithm, update = FedVssl(alpha=1.0), empty(parts.length, FedVssl().summed(parts))
    for weight, value in ((1.0, 0.0), (3.0, 4.0)):
        delta = np.full(parts.length, value, np.float32)
        others = {BY_LOSS: np.float32(weight) * delta, LOSS_WEIGHT: np.array([weight], np.float32)}
        add_client(update, delta, 1.0, {}, others)
    np.testing.assert_allclose(algorithm.step(algorithm.init(parts), update), 3.0, rtol=1e-6)


def test_a_recogniser_has_no_head_to_leave_out(context: Recognition, make: Callable[..., Experiment]) -> None:  # noqa: F811
    with pytest.raises(UserError, match="FedVSSL is for a pre-training"):
        FedVssl().init(layout(context.model))
    with pytest.raises(ValueError, match="at most 1"):
        FedVssl(alpha=1.5)
