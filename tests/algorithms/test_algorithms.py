"""Each algorithm against its published formula, written as a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asr_fed.aggregation.server_optimizer import FedAvgM, server_step
from asr_fed.aggregation.update import add_client, empty, mean
from asr_fed.algorithms.diloco import DiLoCo
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.algorithms.fed_prox import FedProx
from asr_fed.algorithms.mime_lite import FIRST, GRADIENT, SECOND, MimeLite
from asr_fed.algorithms.mime_lite import STEPS as COUNT
from asr_fed.algorithms.scaffold import CONTROL, Scaffold
from asr_fed.config.files import choices, experiments_folder
from asr_fed.config.targets import METHODS
from asr_fed.config.trust import TRUST, check_trust
from asr_fed.data.batching import collate, training_batches
from asr_fed.data.partition import Client
from asr_fed.model.state import layout, load_state, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.randomness import seed_everything
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.local import LocalTask
from tests.federation.test_rounds import make, run  # noqa: F401
from tests.tiny import typed_config

LR, STEPS, SEED = 0.1, 3, 5


@pytest.fixture
def still(context: Recognition) -> Recognition:
    """Without SpecAugment: the gradient of a batch is a function of the weights."""
    context.recogniser.model.encoder.crdnn.eval()
    return replace(context, augment=replace(context.augment, time_drops=0, frequency_drops=0))


@pytest.fixture
def weights(context: Recognition) -> np.ndarray:
    return read_state(context.recogniser.model)


def task_of(context: Recognition, client: Client, weights: np.ndarray, server_round: int = 1) -> LocalTask:
    config = typed_config(
        {"federation": {"batch": {"max_utterances": 4}}}, f"federation.local_steps={STEPS}", "federation.clip=1e9"
    )
    return LocalTask(context, client, weights, LR, server_round, SEED, config.federation)


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_proximal_gradient_is_mu_times_the_distance(
    experiment: Experiment, still: Recognition, weights: np.ndarray, mu: float
) -> None:
    """Two steps of plain SGD: with the term, the second adds -lr * mu * (w1 - w0) to the one without it."""
    client, cut = experiment.partition.clients[0], layout(still.recogniser.model).parameters

    def moved(algorithm: FedAvg, steps: int) -> np.ndarray:
        task = task_of(still, client, weights)
        task = replace(task, settings=replace(task.settings, local_steps=steps))
        return algorithm.client(task, {}, {}).result.delta[:cut].astype(np.float64)

    one, plain, prox = moved(FedAvg(), 1), moved(FedAvg(), 2), moved(FedProx(mu=mu), 2)
    np.testing.assert_allclose(prox - plain, -LR * mu * one, atol=2e-6)


def test_no_pull_is_fed_avg(experiment: Experiment, still: Recognition, weights: np.ndarray) -> None:
    task = task_of(still, experiment.partition.clients[0], weights)
    deltas = [algorithm.client(task, {}, {}).result.delta for algorithm in (FedAvg(), FedProx(mu=0.0))]
    np.testing.assert_array_equal(*deltas)


def gradients(context: Recognition, chunk: list, rng: np.random.Generator) -> list[torch.Tensor]:
    """Of one batch at the model's present parameters."""
    model = context.recogniser.model
    model.train()
    drawn = [float(speed) for speed in rng.choice(list(context.augment.speeds), size=len(chunk))]
    batch = collate(chunk, context.cache, context.recogniser.tokenizer, drawn)
    loss = model.loss(model.normalise(batch.features), batch, context.loss_config, with_ctc=True)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(y) if g is None else g for y, g in zip(parameters, found, strict=True)]


def scaffold_client(
    context: Recognition, client: Client, x: np.ndarray, c: np.ndarray, c_i: np.ndarray, server_round: int
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of arXiv 1910.06378, lines 7 to 14, with option II, as it stands there: y and c_i+."""
    model, cut = context.recogniser.model, len(c)
    load_state(model, x)
    rng = seed_everything(SEED, "client", server_round, client.id)
    settings = task_of(context, client, x).settings
    sizes = [parameter.numel() for parameter in model.parameters()]
    left = STEPS
    while left:
        batches = training_batches(client.train, settings.batch, rng)[:left]
        left -= len(batches)
        for chunk in batches:
            parts = zip(
                model.parameters(),
                gradients(context, list(chunk), rng),
                torch.from_numpy(c_i).split(sizes),
                torch.from_numpy(c).split(sizes),
                strict=True,
            )
            with torch.no_grad():
                for y, g, own, everyones in parts:
                    # The paper's y - lr * (g - c_i + c), rounded as torch's SGD rounds it: max-pooling turns the last
                    # bit of a weight into another gradient now and then.
                    y.add_(g + (everyones - own).view_as(y), alpha=-LR)
    y = read_state(model)[:cut]
    return y, c_i - c + (x[:cut] - y) / np.float32(STEPS * LR)


def test_scaffold_is_the_papers_loop(experiment: Experiment, still: Recognition, weights: np.ndarray) -> None:
    """Three rounds over two of five clients each, server learning rate 1."""
    parts, clients = layout(still.recogniser.model), experiment.partition.clients
    cut, algorithm = parts.parameters, Scaffold()
    state, kept = algorithm.init(parts), {client.id: {} for client in clients}
    x, paper_x = weights.copy(), weights.copy()
    paper_c, paper_ci = np.zeros(cut, np.float32), {client.id: np.zeros(cut, np.float32) for client in clients}

    for server_round, cohort in enumerate(((0, 1), (1, 3), (0, 3)), start=1):
        update, moved, changed, buffers = empty(parts.length, algorithm.summed(parts)), [], [], []
        for client in (clients[index] for index in cohort):
            sent = {name: state[name] for name in algorithm.sent(parts)}
            step = algorithm.client(task_of(still, client, x, server_round), sent, kept[client.id])
            kept[client.id] = step.kept
            add_client(update, step.result.delta, 1.0, {}, step.summed)
            buffers.append(step.result.delta[cut:])

            y, new = scaffold_client(still, client, paper_x, paper_c, paper_ci[client.id], server_round)
            np.testing.assert_allclose(step.kept[CONTROL], new, rtol=1e-3, atol=1e-3)
            moved.append(y - paper_x[:cut])
            changed.append(new - paper_ci[client.id])
            paper_ci[client.id] = new

        state = algorithm.server(state, update, len(clients))
        delta = np.mean(moved, axis=0)
        x, paper_x = x.copy(), paper_x.copy()
        x[:cut] += delta
        paper_x[:cut] += delta
        x[cut:] += np.mean(buffers, axis=0)
        paper_x[cut:] = x[cut:]
        paper_c = paper_c + len(cohort) / len(clients) * np.mean(changed, axis=0)
        np.testing.assert_allclose(state[CONTROL], paper_c, rtol=1e-3, atol=1e-3)
    assert np.abs(state[CONTROL]).max() > 0.01, "the control variates matter"


def test_scaffold_in_rounds_needs_its_memory(make) -> None:  # noqa: F811
    """It trains, differs from FedAvg from the second round on, and keeps one vector per client beside the run."""
    scaffold = "algorithm={_target_: asr_fed.algorithms.scaffold.Scaffold}"
    experiment = make(scaffold, "federation.rounds=2", "federation.cohort=null", name="scaffold")
    ours, plain = run(experiment), run(make("federation.rounds=2", "federation.cohort=null", name="plain"))
    assert ours.history[0].loss == plain.history[0].loss, "all control variates are zero in the first round"
    assert ours.history[1].loss != plain.history[1].loss
    assert set(ours.algorithm) == {CONTROL} and plain.algorithm == {}
    folders = list((experiment.run_dir / "clients").iterdir())
    assert len(folders) == len(experiment.partition.clients)


def test_scaffold_interrupted_after_every_round_ends_in_the_same_bits(make) -> None:  # noqa: F811
    class Interrupted(Exception):
        pass

    def interrupt(history) -> None:
        raise Interrupted

    scaffold = "algorithm={_target_: asr_fed.algorithms.scaffold.Scaffold}"
    expected = run(make(scaffold, name="straight"))
    experiment = make(scaffold, name="resumed")
    for _ in range(experiment.config.federation.rounds):
        with pytest.raises(Interrupted):
            run(experiment, on_round=interrupt)
    state = run(experiment)
    assert state.weights.tobytes() == expected.weights.tobytes()
    assert state.algorithm[CONTROL].tobytes() == expected.algorithm[CONTROL].tobytes()


def adamw_client(
    context: Recognition, client: Client, x: np.ndarray, state: dict, server_round: int, lr: float
) -> np.ndarray:
    """Lines 3 to 9 of algorithm 1 of arXiv 2311.08105, with AdamW (arXiv 1711.05101) written out; y - x in float64.

    `state` has t, m and v of this client, which it goes on from and changes.
    """
    model, decay = context.recogniser.model, 0.1
    load_state(model, x)
    rng = seed_everything(SEED, "client", server_round, client.id)
    settings = task_of(context, client, x).settings
    left = STEPS
    while left:
        batches = training_batches(client.train, settings.batch, rng)[:left]
        left -= len(batches)
        for chunk in batches:
            found = gradients(context, list(chunk), rng)
            g = torch.cat([each.reshape(-1) for each in found])
            state["t"] = state.get("t", 0) + 1
            state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
            state["v"] = 0.99 * state.get("v", 0) + 0.01 * g**2
            m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.99 ** state["t"])
            step, start = lr * m / (v.sqrt() + 1e-3), 0
            with torch.no_grad():
                for y in model.parameters():
                    y.mul_(1 - lr * decay).sub_(step[start : start + y.numel()].view_as(y))
                    start += y.numel()
    return (read_state(model) - x)[:start]


def test_diloco_is_the_papers_loop(experiment: Experiment, still: Recognition, weights: np.ndarray) -> None:
    """Three rounds of two clients, with an outer Nesterov step, against AdamW and Nesterov written out."""
    parts, clients = layout(still.recogniser.model), experiment.partition.clients[:2]
    cut, algorithm, lr = parts.parameters, DiLoCo(), 0.002
    adamw = {"_target_": "torch.optim.AdamW", "weight_decay": 0.1, "betas": [0.9, 0.99], "eps": 1e-3}
    outer = FedAvgM(server_learning_rate=0.7, server_momentum=0.9, nesterov=True)
    memory, kept = outer.init(weights[:cut]), {client.id: {} for client in clients}
    paper_kept: dict[str, dict] = {client.id: {} for client in clients}
    x, paper_x, paper_m = weights.copy(), weights.copy(), np.zeros(cut)

    for server_round in (1, 2, 3):
        deltas, moved = [], []
        for client in clients:
            task = replace(task_of(still, client, x, server_round), lr=lr)
            task = replace(task, settings=replace(task.settings, optimizer=adamw))
            step = algorithm.client(task, {}, kept[client.id])
            kept[client.id] = step.kept
            deltas.append(step.result.delta)
            moved.append(adamw_client(still, client, paper_x, paper_kept[client.id], server_round, lr))
        x, memory = server_step(outer, x, np.mean(deltas, axis=0), memory, parts)
        gradient = -np.mean(moved, axis=0)
        paper_m = 0.9 * paper_m + gradient
        paper_x = paper_x.copy()
        paper_x[:cut] -= (0.7 * (gradient + 0.9 * paper_m)).astype(np.float32)
        paper_x[cut:] = x[cut:]
        np.testing.assert_allclose(x, paper_x, rtol=1e-3, atol=2e-5)
    assert paper_kept[clients[0].id]["t"] == 3 * STEPS
    forgetful = algorithm.client(task, {}, {})
    assert np.abs(forgetful.result.delta[:cut] - deltas[-1][:cut]).max() > 1e-3, "what is kept matters"


def mime_lite_client(
    context: Recognition, client: Client, x: np.ndarray, m: np.ndarray, v: np.ndarray, server_round: int
) -> np.ndarray:
    """y - x of K steps of torch's own Adam, put back to the server's moments before each of them."""
    model, t = context.recogniser.model, server_round - 1
    load_state(model, x)
    rng = seed_everything(SEED, "client", server_round, client.id)
    settings = task_of(context, client, x).settings
    sizes, left = [parameter.numel() for parameter in model.parameters()], STEPS
    while left:
        batches = training_batches(client.train, settings.batch, rng)[:left]
        left -= len(batches)
        for chunk in batches:
            found = gradients(context, list(chunk), rng)
            adam = torch.optim.Adam(model.parameters(), lr=LR / 50, betas=(0.9, 0.95), eps=1e-3)
            moments = (torch.from_numpy(vector).split(sizes) for vector in (m, v))
            for y, own_m, own_v, g in zip(model.parameters(), *moments, found, strict=True):
                y.grad = g
                adam.state[y] = {"step": torch.tensor(float(t)), "exp_avg": own_m.view_as(y).clone()}
                adam.state[y]["exp_avg_sq"] = own_v.view_as(y).clone()
            adam.step()
    return (read_state(model) - x)[: len(m)]


def test_mime_lite_is_the_papers_loop(experiment: Experiment, still: Recognition, weights: np.ndarray) -> None:
    """Three rounds of two clients; the gradient at x is that of one batch that holds all of a client's speech."""
    parts, clients = layout(still.recogniser.model), experiment.partition.clients[:2]
    cut, algorithm = parts.parameters, MimeLite(beta_1=0.9, beta_2=0.95, eps=1e-3)
    state, x = algorithm.init(parts), weights.copy()
    paper_x, m, v = weights.copy(), np.zeros(cut, np.float32), np.zeros(cut, np.float32)
    for server_round in (1, 2, 3):
        update, moved, at_x = empty(parts.length, algorithm.summed(parts)), [], []
        for client in clients:
            task = replace(task_of(still, client, x, server_round), lr=LR / 50)
            step = algorithm.client(task, {name: state[name] for name in algorithm.sent(parts)}, {})
            add_client(update, step.result.delta, 1.0, {}, step.summed)
            moved.append(mime_lite_client(still, client, paper_x, m, v, server_round))
            load_state(still.recogniser.model, paper_x)
            rng = seed_everything(SEED, "gradient", server_round, client.id)
            batches = training_batches(client.train, task.settings.batch, rng)
            each = [gradients(still, list(chunk), rng) for chunk in batches]
            flat = [torch.cat([g.reshape(-1) for g in found]) for found in each]
            at_x.append(torch.stack(flat).mean(dim=0).numpy())
        state = algorithm.server(state, update, len(clients))
        x = x + mean(update)
        paper_x = paper_x.copy()
        paper_x[:cut] += np.mean(moved, axis=0)
        paper_x[cut:] = x[cut:]
        g = np.mean(at_x, axis=0)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        m, v = m.astype(np.float32), v.astype(np.float32)
        np.testing.assert_allclose(x, paper_x, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(state[FIRST], m, rtol=1e-2, atol=1e-4)
        np.testing.assert_allclose(state[SECOND], v, rtol=1e-2, atol=1e-4)
    assert state[COUNT] == [3] and np.abs(m).max() > 0.01
    one_batch = replace(algorithm, gradient_batches=1).client(task, {n: state[n] for n in algorithm.sent(parts)}, {})
    assert one_batch.summed[GRADIENT].tobytes() != step.summed[GRADIENT].tobytes()


INTERRUPTED = {
    "diloco": (
        "algorithm={_target_: asr_fed.algorithms.diloco.DiLoCo}",
        "federation.optimizer={_target_: torch.optim.AdamW}",
        "federation.lr=0.005",
        "federation.annealing.factor=0.5",
        "server={_target_: asr_fed.aggregation.server_optimizer.FedAvgM, server_momentum: 0.9, nesterov: true}",
    ),
    "mime_lite": ("algorithm={_target_: asr_fed.algorithms.mime_lite.MimeLite}", "federation.lr=0.005"),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupted_after_every_round_it_ends_in_the_same_bits(make, name: str) -> None:  # noqa: F811
    class Interrupted(Exception):
        pass

    def interrupt(history) -> None:
        raise Interrupted

    changes = INTERRUPTED[name]
    expected = run(make(*changes, name="straight"))
    experiment = make(*changes, name="resumed")
    for _ in range(experiment.config.federation.rounds):
        with pytest.raises(Interrupted):
            run(experiment, on_round=interrupt)
    assert run(experiment).weights.tobytes() == expected.weights.tobytes()
    without = run(make("algorithm={_target_: asr_fed.algorithms.fed_avg.FedAvg}", *changes[1:], name="without"))
    assert without.weights.tobytes() != expected.weights.tobytes()


@pytest.mark.parametrize("name", choices("algorithm"))
def test_every_algorithm_group_builds_and_is_one_that_nodes_trust(name: str) -> None:
    group = OmegaConf.load(experiments_folder() / "algorithm" / f"{name}.yaml")
    check_trust(OmegaConf.to_container(group), TRUST, "a node's trust")
    made = instantiate(group)
    assert all(callable(getattr(made, method)) for method in METHODS["algorithm"])
