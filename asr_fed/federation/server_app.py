"""The ServerApp: the rounds of a federation, from the warm start to the best weights."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedAvgM
from hydra.utils import instantiate

from asr_fed.aggregation.server_optimizer import FlowerOptimizer, Momentum, ServerOptimizer
from asr_fed.config.schema import FederationConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.engines.worker_grid import WorkerGrid
from asr_fed.evaluation.evaluate import Evaluation, evaluate
from asr_fed.federation.cost import CostModel
from asr_fed.federation.personalisation import personalise_clients
from asr_fed.federation.roster import join
from asr_fed.federation.strategy import Share, SumOfUpdates, audio_seconds
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import layout, load_state, read_state
from asr_fed.runs.experiment import Experiment, open_experiment, pick_device
from asr_fed.runs.run_dir import exclusive, write_history, write_text
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import seed_everything
from asr_fed.training.annealing import NewBob, anneal, planned_fall
from asr_fed.training.epoch import TrainingContext, train_epoch
from asr_fed.training.optimizer import build_optimizer
from asr_fed.wire.exchange import exchange
from asr_fed.wire.messages import Timing, pack_vector

app = ServerApp()
ATTEMPTS = 2  # of a round
ERROR_FILE = "federation_error.txt"


@dataclass
class FederationState:
    """All that a killed server needs to go on as if it had not been killed; `round` is the last finished one."""

    newbob: NewBob
    weights: np.ndarray
    best_weights: np.ndarray
    best_wer: float
    best_round: int = 0
    round: int = 0
    settled_round: int = 0  # the last one with a gain, or with a return to the best weights
    optimizer: dict[str, Any] = field(default_factory=dict)
    clients: int = 0  # that the nodes host
    seconds: float = 0.0  # of training speech that these have
    history: list[dict[str, Any]] = field(default_factory=list)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of Flower: run the federation of the run directory named in the run config.

    What the user has to know of a failure is left in `ERROR_FILE` there, since this process is nobody's child.
    """
    run_dir = Path(str(context.run_config["run-dir"]))
    (run_dir / ERROR_FILE).unlink(missing_ok=True)
    try:
        experiment = open_experiment(run_dir)
        torch.set_num_threads(experiment.config.engine.server_threads)
        with exclusive(run_dir / ".federation.lock", f"Another federation is running in {run_dir}."):
            run_federation(experiment, grid, lambda history: write_history(run_dir, history))
    except UserError as error:
        write_text(run_dir / ERROR_FILE, str(error))
        raise


def run_federation(
    experiment: Experiment,
    grid: Grid,
    on_round: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    on_personalise: Callable[[int], None] = lambda clients: None,
) -> FederationState:
    """Train from checkpoints/warm_start.pt to checkpoints/federated.pt, over the nodes of `grid`.

    Goes on from checkpoints/federation.pt where that exists. `on_round` is given the history after each round,
    `on_personalise` the number of clients that are to personalise the result, where the config wants that.

    Raises UserError where too few nodes join, or a round fails twice.
    """
    config, settings = experiment.config, experiment.config.federation
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    training = experiment.training_context(recogniser, pick_device(config.device))
    model = recogniser.model
    optimizer = build_server_optimizer(config.server)
    checkpoint = experiment.checkpoints / "federation.pt"

    if checkpoint.is_file():
        state = load_federation(checkpoint)
        optimizer.load_state_dict(state.optimizer)
    else:
        wer = _judge(experiment, training).wer
        weights = read_state(model)
        state = FederationState(anneal(NewBob(settings.lr), wer, settings.annealing), weights, weights, wer)
    roster = None
    if state.round < settings.rounds:
        roster = join(experiment, grid)
        state.clients = len(roster.clients)
        state.seconds = math.fsum(client.train_seconds for client in roster.clients.values())
        strategy = SumOfUpdates(
            roster, settings, instantiate(config.weighting), config.seed, layout(model), optimizer, CostModel()
        )
    late: list[str] = []
    while state.round < settings.rounds:
        state.round += 1
        started = time.perf_counter()
        lr = planned_lr(state, settings)
        weights, record = run_round(strategy, grid, state, lr, late)
        load_state(model, weights)
        trained = time.perf_counter()
        train_on_server(experiment, training, state.round, annealing=lr / settings.lr)
        state.weights = read_state(model)
        record |= {"held_out_seconds": time.perf_counter() - trained, "wer": None, "cer": None}
        if state.round % settings.evaluate_every == 0 or state.round == settings.rounds:
            judged = _judge(experiment, training)
            record |= {"wer": judged.wer, "cer": judged.cer}
            _note_gain(state, judged.wer, settings)
        record |= {"best_round": state.best_round, "round_seconds": time.perf_counter() - started}
        state.history.append(record)
        state.optimizer = optimizer.state_dict()
        _save(state, checkpoint)
        on_round(state.history)

    load_state(model, state.best_weights)
    save_recogniser(recogniser, experiment.checkpoints / "federated.pt")
    if config.personalise:
        personalise_clients(experiment, grid, state.best_weights, roster, on_personalise)
    return state


def run_round(
    strategy: SumOfUpdates, grid: Grid, state: FederationState, lr: float, late: list[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The weights after aggregation, and what is to be said of the round. A round that fails is tried once more.

    `late` holds the messages of earlier rounds that have had no answer: one that comes now is counted and dropped.

    Raises UserError where the round fails again.
    """
    timeout, dropped = strategy.settings.round_timeout, 0
    for attempt in range(1, ATTEMPTS + 1):
        strategy.roster.refresh(grid)
        messages = strategy.configure_train(
            state.round, ArrayRecord({"state": pack_vector(state.weights)}), ConfigRecord({"lr": lr}), grid
        )
        asked = exchange(grid, messages, timeout=timeout, enough=strategy.enough)
        replies = asked.replies + _overdue(grid, late, asked.unanswered, timeout)
        started = time.perf_counter()
        arrays, metrics = strategy.aggregate_train(state.round, replies)
        aggregate_seconds = time.perf_counter() - started
        result = strategy.round
        dropped += result.dropped
        waited = max(asked.seconds.values(), default=0.0)
        learn(strategy, grid, waited)
        if arrays is not None and metrics is not None:
            return arrays["state"].numpy(), {
                "round": state.round,
                "lr": lr,
                "annealed_lr": state.newbob.lr,
                **metrics,
                "success": result.success,
                "failures": result.failures,
                "dropped": dropped,
                "attempts": attempt,
                "bytes_down": result.bytes_down,
                "bytes_up": result.bytes_up,
                "exchange_seconds": waited,
                "aggregate_seconds": aggregate_seconds,
                "workers": [describe_share(share, waited) for share in result.shares.values()],
            }
    reasons = "; ".join(f"{client}: {reason}" for client, reason in list(result.failures.items())[:3])
    raise UserError(
        f"Round {state.round} failed {ATTEMPTS} times: {result.success:.0%} of the weight of {len(result.cohort)} "
        f"clients arrived, federation.min_success is {strategy.settings.min_success:.0%}. First reasons: {reasons}. "
        "The run can be resumed."
    )


def _overdue(grid: Grid, late: list[str], unanswered: list[str], timeout: float | None) -> list[Message]:
    """Answers to messages of earlier rounds; from now on `late` holds those of this one too.

    Our own workers are not waited for any longer: they are replaced.
    """
    if isinstance(grid, WorkerGrid):
        grid.give_up(unanswered, f"no answer within {timeout} s")
        return []
    answers = list(grid.pull_messages(late)) if late else []
    for answer in answers:
        late.remove(answer.metadata.reply_to_message_id)
    late += unanswered
    return answers


def describe_share(share: Share, waited: float) -> dict[str, Any]:
    """How one node spent the round; `idle` is the share of the time that the server waited for the last answer."""
    timing = share.timing or Timing()
    return {
        "node": share.node,
        "clients": len(share.clients),
        "predicted_seconds": share.predicted,
        "busy_seconds": timing.busy,
        "start_seconds": timing.start,
        "idle": max(0.0, 1 - timing.busy / waited),
    }


def learn(strategy: SumOfUpdates, grid: Grid, waited: float) -> None:
    """Let the cost model see how long clients took: one by one where the grid knows, else all of a node together."""
    settings, cost, failures = strategy.settings, strategy.cost, strategy.round.failures
    audio = {name: audio_seconds(client, settings) for name, client in strategy.roster.clients.items()}
    if isinstance(grid, WorkerGrid):
        for node, client, seconds in grid.trained():
            if client not in failures:  # which took another time than training would have
                cost.observe(node, audio[client], seconds)
    else:
        for share in strategy.round.shares.values():
            if share.timing is not None and not failures.keys() & share.clients:
                # A node may say what it likes: it cannot have worked for longer than it was waited for.
                cost.observe(share.node, [audio[name] for name in share.clients], min(share.timing.busy, waited))
    cost.end_round()


def planned_lr(state: FederationState, settings: FederationConfig) -> float:
    """The clients' learning rate in `state.round`: NewBob's on the dev WER, times the fall planned over the rounds."""
    done = (state.round - 1) / settings.rounds
    return state.newbob.lr * planned_fall(done, settings.decay_from, settings.decay)


def build_server_optimizer(settings: Any) -> ServerOptimizer:
    """From `server=`: one of Flower's strategies of the FedAvg family, or an object with our own interface."""
    built = instantiate(settings)
    if type(built) is FedAvgM and built.server_momentum > 0:
        return Momentum(built.server_learning_rate, built.server_momentum)
    return FlowerOptimizer(built) if isinstance(built, FedAvg) else built


def train_on_server(experiment: Experiment, training: TrainingContext, server_round: int, *, annealing: float) -> None:
    """Train the aggregated model on speech that the server itself holds.

    `annealing` is the clients' learning rate over the one they began with.
    """
    config, settings = experiment.config, experiment.config.federation.held_out
    speech: list[Utterance] = [*experiment.partition.held_out]
    speech += experiment.partition.warm_up if settings.replay_warm_up else ()
    if not speech or not settings.epochs:
        return
    lr = settings.lr * (annealing if settings.annealed else 1.0)
    optimizer = build_optimizer(config.federation.optimizer, training.recogniser.model, lr)
    rng = seed_everything(config.seed, "held-out", server_round)
    for _ in range(settings.epochs):
        train_epoch(
            training, training_batches(speech, settings.batch, rng), optimizer, rng, clip=config.federation.clip
        )


def _judge(experiment: Experiment, training: TrainingContext) -> Evaluation:
    settings = experiment.config.evaluation
    return evaluate(
        training.recogniser, experiment.partition.dev, training.cache, settings.dev_decoder, settings, training.device
    )


def _note_gain(state: FederationState, wer: float, settings: FederationConfig) -> None:
    """Keep the best weights, anneal on the WER, and go back to the best weights after too long without gain.

    A last round between two evaluations may be the best, but does not steer: with more rounds it would not have been
    judged.
    """
    gain = wer < state.best_wer
    if gain:
        state.best_wer, state.best_weights, state.best_round = wer, state.weights, state.round
    if state.round % settings.evaluate_every:
        return
    state.newbob = anneal(state.newbob, wer, settings.annealing)
    if gain:
        state.settled_round = state.round
    elif settings.fallback_after is not None and state.round - state.settled_round >= settings.fallback_after:
        state.weights, state.settled_round = state.best_weights, state.round


def _save(state: FederationState, path: Path) -> None:
    save_checkpoint({**vars(state), "newbob": asdict(state.newbob)}, path)


def load_federation(path: Path) -> FederationState:
    """What a killed or finished server left."""
    content = load_checkpoint(path)
    return FederationState(**{**content, "newbob": NewBob(**content["newbob"])})
