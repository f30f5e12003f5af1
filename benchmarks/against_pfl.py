"""The same local work by a bare PyTorch loop, by pfl's simulated backend, and by our workers.

    pip install --no-deps pfl==0.6.0 dp-accounting==0.5.1 prv-accountant==0.2.0 "multiprocess<0.71"
    python benchmarks/against_pfl.py [--parameters 1] [--steps 5 1] [--users 100] [--repetitions 5] [--cohorts]

A multilayer perceptron of about 1 or 10 million parameters, users of 20 samples, SGD on batches of 4: one epoch, which
is 5 steps, or one step. A user is: load the global weights, take the steps, add the weighted change to a sum. That sum
is one of floats in the bare loop and in pfl, and exact (`add_client`) in ours. In every repetition all ways take
turns, each with one thread a process:

- bare, pfl and ours within this process; ours is `train_clients`, the loop of a worker;
- two bare loops at once in processes of their own, half of the users each: what two busy cores of this machine yield;
- rounds of a `Workers` with one and with two workers, messages, merging and mean included.

Then peak resident memory for cohorts of growing size, each in a fresh process: pfl's, our server's and our worker's.
"""

import argparse
import functools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import active_children, get_context
from time import perf_counter
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from asr_fed.aggregation.update import mean, merge
from asr_fed.engines.local_pool import LocalPool
from asr_fed.engines.workers import Workers
from asr_fed.federation.client_app import Contribution, Shape, build_client_app, train_clients
from asr_fed.model.state import layout, load_state, read_delta, read_state
from asr_fed.system.processes import keep_freed_memory
from asr_fed.wire.ask import Assignment, ask
from asr_fed.wire.messages import TOTALS, ClientSize, Order, Report
from asr_fed.wire.rounds import read_reply

INPUTS, CLASSES, SAMPLES, BATCH = 784, 10, 20, 4
HIDDEN = {1: (1024, 200), 10: (3072, 2400)}  # widths, by millions of parameters
LR, WEIGHT = 0.01, 1.7
POOL = 400  # different users' samples; more users share them


def perceptron(millions: int) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = HIDDEN[millions]
    layers = nn.Linear(INPUTS, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, CLASSES)
    return nn.Sequential(*layers)


@functools.cache
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    count = POOL * SAMPLES
    x, y = torch.randn(count, INPUTS, generator=generator), torch.randint(CLASSES, (count,), generator=generator)
    return x, y


def user_samples(user: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [20, inputs] and y [20] of a user."""
    start = user % POOL * SAMPLES
    x, y = samples()
    return x[start : start + SAMPLES], y[start : start + SAMPLES]


def train(model: nn.Module, user: int, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in zip(*(part.split(BATCH) for part in user_samples(user)), strict=True):
        if not steps:
            break
        steps -= 1
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def bare_loop(
    model: nn.Module, weights: Sequence[torch.Tensor], users: Sequence[int], steps: int
) -> list[torch.Tensor]:
    """The weighted sum of the users' changes."""
    sums = [torch.zeros_like(weight) for weight in weights]
    parameters = [parameter.data for parameter in model.parameters()]
    for user in users:
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
        train(model, user, steps)
        for total, parameter, weight in zip(sums, parameters, weights, strict=True):
            total.add_(parameter - weight, alpha=WEIGHT)
    return sums


def pfl_round(millions: int, users: int, steps: int) -> Callable[[], Any]:
    """A function that has pfl gather the results of one cohort."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.context import CentralContext
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = perceptron(millions)

        def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
            return functional.cross_entropy(self.layers(x), y)

        def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> dict[str, Any]:
            return {"loss": Weighted(self.loss(x, y).item(), 1)}

    net = Model()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    sampler = get_user_sampler("minimize_reuse", list(range(users)))
    dataset = FederatedDataset(lambda user: Dataset(user_samples(user), user_id=str(user)), sampler)
    # Number of epochs or of steps, never both.
    epochs = 1 if steps == SAMPLES // BATCH else None
    training = NNTrainHyperParams(
        local_num_epochs=epochs,
        local_learning_rate=LR,
        local_batch_size=BATCH,
        local_num_steps=None if epochs else steps,
    )
    backend = SimulatedBackend(training_data=dataset, val_data=None)
    algorithm = FederatedAveraging()
    parameters = NNAlgorithmParams(
        central_num_iterations=10**6, evaluation_frequency=10**6, train_cohort_size=users, val_cohort_size=None
    )

    def run() -> Any:
        # From 1, since pfl evaluates in iteration 0.
        contexts, _, _ = algorithm.get_next_central_contexts(model, 1, parameters, training)
        context: CentralContext = contexts[0]
        return backend.gather_results(model=model, training_algorithm=algorithm, central_context=context)[0]

    return run


def our_training(millions: int, steps: int) -> Callable[[str, Order], Contribution]:
    """What a worker of ours does with one client."""
    model = perceptron(millions)
    totals = {name: 0 for name in TOTALS if name not in ("clients", "weight_squared")}

    def train_one(user: str, order: Order) -> Contribution:
        load_state(model, order.weights)
        train(model, int(user), steps)
        return Contribution(read_delta(model, order.weights), WEIGHT, totals)

    return train_one


def open_worker(
    millions: int, steps: int, worker: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]
) -> Callable[[Any], Any]:
    """Our worker (see LocalPool)."""
    from flwr.app import Context, RecordDict

    length = layout(perceptron(millions)).length
    report = Report(f"worker {worker + 1}", own=False, setup="", clients={"0": ClientSize(SAMPLES, 0.0, 0.0)})
    app = build_client_app(our_training(millions, steps), report, Shape(length), on_client, superseded)
    context = Context(0, worker + 1, {}, state=RecordDict(), run_config={})
    samples()
    return lambda message: app(message, context)


def grid_round(grid: Workers, weights: np.ndarray, users: Sequence[int]) -> np.ndarray:
    """The mean change of the users' weights."""
    nodes = list(grid.get_node_ids())
    shares = [Assignment(node, tuple(map(str, users[index :: len(nodes)]))) for index, node in enumerate(nodes)]
    order = Order(1, LR, (), weights)
    asked = ask(grid, order, shares, lambda reply, clients: read_reply(reply, clients, len(weights)))
    if asked.failures:
        raise SystemExit(f"Users failed: {list(asked.failures.items())[:3]}")
    return mean(merge(answer.update for answer in asked.answers.values() if answer.update is not None))


def bare_worker(pipe: Any, millions: int, steps: int) -> None:
    """The life of a process that runs a bare loop over the users it is sent."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = perceptron(millions)
    weights = [parameter.data.clone() for parameter in model.parameters()]
    samples()
    pipe.send("ready")
    while (users := pipe.recv()) is not None:
        bare_loop(model, weights, users, steps)
        pipe.send("done")


def measure(millions: int, steps: int, users: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each repetition, by way."""
    model = perceptron(millions)
    weights = [parameter.data.clone() for parameter in model.parameters()]
    flat, everyone = read_state(model), list(range(users))
    order = Order(1, LR, tuple(map(str, everyone)), flat)
    ours, pfl = our_training(millions, steps), pfl_round(millions, users, steps)
    context = get_context("spawn")
    pipes, processes = [], []
    for _ in range(2):
        here, there = context.Pipe()
        processes.append(context.Process(target=bare_worker, args=(there, millions, steps), daemon=True))
        processes[-1].start()
        pipes.append(here)
        here.recv()

    def two_loops() -> None:
        for index, pipe in enumerate(pipes):
            pipe.send(everyone[index::2])
        for pipe in pipes:
            pipe.recv()

    opened = functools.partial(open_worker, millions, steps)
    times: dict[str, list[float]] = {}
    with Workers(LocalPool(opened), 1) as one, Workers(LocalPool(opened), 2) as two:
        ways: dict[str, Callable[[], Any]] = {
            "bare loop": lambda: bare_loop(model, weights, everyone, steps),
            "pfl": pfl,
            "ours, in process": lambda: train_clients(ours, order, Shape(len(flat))),
            "two bare loops": two_loops,
            "ours, 1 worker": lambda: grid_round(one, flat, everyone),
            "ours, 2 workers": lambda: grid_round(two, flat, everyone),
        }
        for repetition in range(repetitions + 1):
            for name, way in ways.items():
                started = perf_counter()
                result = way()
                if repetition:
                    times.setdefault(name, []).append(perf_counter() - started)
                else:  # the first warms up, and shows that all do the same
                    check(name, result, users, ways)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return times


def check(name: str, result: Any, users: int, ways: dict[str, Callable[[], Any]]) -> None:
    """That a way's mean change is the bare loop's. pfl's sum is unweighted: its users are counted alike."""
    expected = np.concatenate([total.numpy().ravel() for total in ways["bare loop"]()]) / (WEIGHT * users)
    if name == "pfl":
        found = np.concatenate([value.numpy().ravel() for _, value in result.items()]) / users
    elif name == "ours, in process":
        update, failures = result
        if failures:
            raise SystemExit(f"Users failed: {list(failures.items())[:3]}")
        found = mean(update)
    elif name.startswith("ours"):
        found = result
    else:
        return
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    if not worst < 1e-3:
        raise SystemExit(f"{name} is {worst:.1e} away from the bare loop: it does other work.")


def peaks(way: str, millions: int, steps: int, users: int) -> list[float]:
    """Peak resident MB after a round: [pfl], or [server, worker]; called in a fresh process."""
    if way == "pfl":
        pfl_round(millions, users, steps)()
        return [peak_mb("self")]
    with Workers(LocalPool(functools.partial(open_worker, millions, steps)), 1) as grid:
        grid_round(grid, read_state(perceptron(millions)), list(range(users)))
        return [peak_mb("self"), *(peak_mb(child.pid or 0) for child in active_children())]


def time_table(millions: int, steps: int, users: int, repetitions: int) -> Table:
    table = Table(title=f"{millions} M parameters, {steps} step(s), {users} users, {repetitions} repetitions")
    for column in ("way", "median, s", "ratio (min-max)", "of its time to that of"):
        table.add_column(column, justify="right" if "," in column else "left")
    times = measure(millions, steps, users, repetitions)
    rows = [(name, name, "bare loop") for name in times]
    rows.append(("what a second bare loop gains", "bare loop", "two bare loops"))
    rows.append(("what our second worker gains", "ours, 1 worker", "ours, 2 workers"))
    for title, name, base in rows:
        ratios = [value / plain for value, plain in zip(times[name], times[base], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(title, f"{statistics.median(times[name]):.3f}", spread, base)
    return table


def memory_table(cohorts: Sequence[int]) -> Table:
    table = Table(title="Peak resident memory, MB (1 M parameters, 1 step)")
    for column in ("cohort", "pfl", "our server", "our worker"):
        table.add_column(column, justify="right")
    for cohort in cohorts:
        row = [str(cohort)]
        for way in ("pfl", "ours"):
            # pfl works in no child of multiprocessing.
            command = [sys.executable, __file__, "--peaks", way, str(cohort)]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            row += [f"{float(peak):.0f}" for peak in printed.split()]
        table.add_row(*row)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Our workers and pfl's simulated backend against a bare loop.")
    parser.add_argument("--parameters", type=int, nargs="+", default=[1], choices=sorted(HIDDEN), help="millions")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cohorts", type=int, nargs="*", default=[20, 200, 2000], help="for memory; none: no memory")
    parser.add_argument("--peaks", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # for all ways alike
    if arguments.peaks:
        print(*peaks(arguments.peaks[0], 1, 1, int(arguments.peaks[1])))
        return
    console = Console()
    for millions in arguments.parameters:
        for steps in arguments.steps:
            console.print(time_table(millions, steps, arguments.users, arguments.repetitions))
    if arguments.cohorts:
        console.print(memory_table(arguments.cohorts))


if __name__ == "__main__":
    main()
