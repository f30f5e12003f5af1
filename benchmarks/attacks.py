"""What members that lie do to a federation, by attack and defence: dev WER and dev loss after five rounds.

    python train_fed.py hparams/an4.yaml federation.rounds=0 run_dir=RUN_DIR    # a warm start, and ten silos
    python benchmarks/attacks.py RUN_DIR --cells attacks.csv [--seconds 460]

Each silo is a node of its own in this process, with the product's own client app; messages, checks, aggregation and
rounds are those of a deployment. Only what an attacker's client hands to its node is changed here, and it claims the
largest weight that there is. Nothing is trained on the server, and the rate does not fall: both would hide an attack.

A finished cell is a line of the CSV file, and is not computed again. The table is printed at the end.

Attacks (of the parameters; a running variance below 0 would be refused):
    replacement  the change towards a model of shuffled transcripts, times ten over the number of attackers, so that
                 the mean arrives at that model (Bagdasaryan et al., arXiv 1807.00459)
    sign_flip    five times its own change, backwards
    noise        Gaussian noise, ten times as strong as its own change
    shuffle      the change that shuffled transcripts lead to, as it is
"""

import argparse
import csv
import datetime
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from hydra.utils import instantiate

from asr_fed.aggregation.weighting import weight_bounds
from asr_fed.config.federation import RobustConfig, Rule
from asr_fed.data.partition import Client
from asr_fed.data.wrong_transcripts import with_wrong_transcripts
from asr_fed.federation.client_app import Contribution, build_client_app, client_size, shape_of, train_speech
from asr_fed.federation.client_store import ClientStore
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.shared_config import shared_config
from asr_fed.federation.state import FederationState, begin, save_federation
from asr_fed.model.state import layout, load_state, read_state
from asr_fed.runs.experiment import Experiment, open_experiment
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import generator
from asr_fed.tasks.learners import load_learner
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import Order, Report

FLIP, NOISE = -5.0, 10.0
ATTACKS = ("replacement", "sign_flip", "noise", "shuffle")
ATTACKERS = (1, 3)
DEFENCES = {
    "mean": RobustConfig(),
    "clip_median=3": RobustConfig(clip_median=3.0),  # what engine=deployment has by itself
    "clip_median=1.5": RobustConfig(clip_median=1.5),
    "trimmed_mean, trim=0.3": RobustConfig(rule=Rule.trimmed_mean, trim=0.3),
    "median": RobustConfig(rule=Rule.median),
    "multi_krum, liars=3": RobustConfig(rule=Rule.multi_krum, liars=3),
}


@dataclass(frozen=True)
class Cell:
    """One run: `attackers` silos make this attack ("none": nobody does)."""

    attack: str
    attackers: int
    defence: str


@dataclass(frozen=True)
class Result:
    """wer: percent; None, as loss is, where the run stopped, for the reason in `stopped`."""

    wer: float | None
    loss: float | None
    seconds: float
    stopped: str = ""


@dataclass
class Silos:
    """The clients of a run directory, who train in this process. What they learn from the warm start is kept, and so
    are its dev WER and loss: they are the same in every cell."""

    experiment: Experiment
    kept: dict[tuple[str, int], Contribution] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.experiment.config
        self.training = self.experiment.task(self.experiment.fresh_learner(), torch.device("cpu"))
        self.algorithm, self.weighting = instantiate(config.algorithm), instantiate(config.weighting)
        self.store = ClientStore(self.experiment.run_dir / "clients")
        warm = load_learner(self.experiment.checkpoints / "warm_start.pt", config)
        load_state(self.training.model, read_state(warm.model))
        self.start: FederationState = begin(self.experiment, self.training)

    def learn(self, client: Client, order: Order, wrong: int = 0) -> Contribution:
        """`wrong`: among how many clients its transcripts have been shuffled."""
        found = self.kept.get((client.id, wrong)) if order.server_round == 1 else None
        if found is None:
            found = train_speech(
                self.experiment, self.training, self.algorithm, self.weighting, client, order, self.store
            )
            if order.server_round == 1:
                self.kept[client.id, wrong] = found
        return found


class Nodes:
    """A grid whose nodes are these silos, one client each; those in `liars` attack."""

    def __init__(self, silos: Silos, experiment: Experiment, cell: Cell) -> None:
        identify_process(run_id=1, node_id=0)
        partition, seed = experiment.partition, experiment.config.seed
        shuffled = with_wrong_transcripts(partition, cell.attackers / len(partition.clients), seed)
        clean, wrong = ({client.id: client for client in each.clients} for each in (partition, shuffled))
        liars = shuffled.wrong_transcripts
        parameters = layout(silos.training.model).parameters

        def train(name: str, order: Order) -> Contribution:
            if name not in liars:
                return silos.learn(clean[name], order)
            poisoned = cell.attack in ("replacement", "shuffle")
            own = silos.learn(wrong[name] if poisoned else clean[name], order, poisoned * cell.attackers)
            delta = own.delta.copy()
            delta[:parameters] = lie(cell, delta[:parameters], len(clean), seed, name, order.server_round)
            return replace(own, delta=delta, weight=weight_bounds(silos.weighting, len(clean[name].train))[1])

        setup = shared_config(experiment, silos.training.model).sha256
        shape = shape_of(silos.algorithm, silos.training.model)
        self.apps = {
            node: build_client_app(train, Report(name, True, setup, {name: client_size(client)}), shape)
            for node, (name, client) in enumerate(clean.items(), start=1)
        }
        self.sent: dict[str, Message] = {}
        self.count = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Sequence[Message]) -> Iterable[str]:
        for message in messages:
            self.count += 1
            set_message_id(message, str(self.count))
            self.sent[str(self.count)] = message
            yield str(self.count)

    def pull_messages(self, message_ids: Collection[str]) -> Iterable[Message]:
        for name in list(message_ids):
            if (message := self.sent.pop(name, None)) is not None:
                node = message.metadata.dst_node_id
                yield self.apps[node](message, Context(1, node, {}, RecordDict(), {}))


def lie(cell: Cell, change: np.ndarray, silos: int, seed: int, name: str, server_round: int) -> np.ndarray:
    """What an attacker makes of the change of its parameters."""
    if cell.attack == "replacement":
        return change * np.float32(silos / cell.attackers)
    if cell.attack == "sign_flip":
        return change * np.float32(FLIP)
    if cell.attack == "noise":
        strength = NOISE * float(np.sqrt(np.square(change, dtype=np.float64).mean()))
        drawn: np.ndarray = generator(seed, "attack", name, server_round).normal(0, strength, len(change))
        return drawn.astype(np.float32)
    return change


def open_silos(run_dir: Path, rounds: int, steps: int | None) -> Silos:
    """Those of a run directory, for so many rounds; `steps`: of each in a round, None for the epochs of the config."""
    experiment = open_experiment(run_dir)
    settings, experiment.config.engine.nodes = experiment.config.federation, len(experiment.partition.clients)
    settings.rounds = settings.evaluate_every = rounds
    settings.local_steps = settings.local_steps if steps is None else steps
    settings.held_out.epochs, settings.decay_from, settings.average_last = 0, 1.0, None
    return Silos(experiment)


def run(silos: Silos, cell: Cell) -> Result:
    """The federation of a cell, from the warm start, in a run directory of its own."""
    started = time.perf_counter()
    config = deepcopy(silos.experiment.config)
    config.federation.robust = DEFENCES[cell.defence]
    with tempfile.TemporaryDirectory() as folder:
        own = replace(silos.experiment, config=config, run_dir=Path(folder))
        own.checkpoints.mkdir()
        shutil.copy(silos.experiment.checkpoints / "warm_start.pt", own.checkpoints)
        save_federation(silos.start, own.checkpoints / "federation.pt")
        try:
            state = run_federation(own, RemoteNodes(Nodes(silos, own, cell)))
        except UserError as error:
            return Result(None, None, time.perf_counter() - started, str(error))
    load_state(silos.training.model, state.weights)
    loss = silos.training.mean_loss(silos.experiment.partition.dev)
    return Result(state.history[-1].wer, loss, time.perf_counter() - started)


def cells() -> list[Cell]:
    attacks = [("none", 0), *((attack, attackers) for attackers in reversed(ATTACKERS) for attack in ATTACKS)]
    return [Cell(attack, attackers, defence) for attack, attackers in attacks for defence in DEFENCES]


def read_cells(path: Path) -> dict[Cell, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {Cell(row["attack"], int(row["attackers"]), row["defence"]): row for row in csv.DictReader(file)}


def append_cell(path: Path, cell: Cell, result: Result) -> None:
    row = asdict(cell) | asdict(result) | {"date": datetime.date.today().isoformat(), "load": os.getloadavg()[0]}
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table(done: dict[Cell, dict[str, str]]) -> str:
    """In Markdown, a row for each attack and number of attackers."""
    lines = [f"| attack | attackers | {' | '.join(DEFENCES)} |", "|---|---|" + "---|" * len(DEFENCES)]
    for attack, attackers in sorted({(cell.attack, cell.attackers): None for cell in cells()}, key=_place):
        found = [done.get(Cell(attack, attackers, defence)) for defence in DEFENCES]
        lines.append(f"| {attack} | {attackers} | {' | '.join(map(_shown, found))} |")
    return "\n".join(lines)


def _place(row: tuple[str, int]) -> tuple[int, int]:
    return ("none", *ATTACKS).index(row[0]), row[1]


def _shown(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    return "the run stops" if row["stopped"] else f"{float(row['wer']):.1f} ({float(row['loss']):.2f})"


def main() -> None:
    """Compute the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description="Attacks on a federation of silos, and defences.")
    parser.add_argument("run_dir", type=Path, help="a run directory with a warm start")
    parser.add_argument("--cells", type=Path, required=True, help="CSV file of the cells that are done")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of each silo in a round, in place of an epoch")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell that may end later")
    arguments = parser.parse_args()
    started, longest = time.perf_counter(), 0.0
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    silos = open_silos(arguments.run_dir, arguments.rounds, arguments.steps)
    print(f"warm start: dev WER {silos.start.best_wer:.2f}, dev loss {silos.start.loss:.3f}", flush=True)
    for cell in cells():
        if cell in read_cells(arguments.cells):
            continue
        if time.perf_counter() - started + 1.2 * longest > arguments.seconds:
            break
        result = run(silos, cell)
        longest = max(longest, result.seconds)
        append_cell(arguments.cells, cell, result)
        print(cell, result, flush=True)
    print(table(read_cells(arguments.cells)))


if __name__ == "__main__":
    main()
