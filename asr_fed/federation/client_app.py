"""The ClientApp: a node trains the clients it is asked for and answers with one update.

Model, features and partition stay resident between messages. The same app runs in every engine.
"""

import functools
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from hydra.utils import instantiate

from asr_fed.data.partition import Client
from asr_fed.experiment import Experiment, open_experiment, pick_device
from asr_fed.federation.messages import Order, read_order, reply_message
from asr_fed.federation.update import Update, UpdateRefused, add_client, empty, fixed
from asr_fed.model.recogniser import load_recogniser
from asr_fed.training.epoch import TrainingContext
from asr_fed.training.local import ClientResult, train_client

app = ClientApp()
log = logging.getLogger(__name__)


@dataclass
class Node:
    """What a node holds as long as it lives; `on_client` is told of each client that is done."""

    experiment: Experiment
    training: TrainingContext
    weighting: Callable[[ClientResult], float]
    clients: dict[str, Client]
    on_client: Callable[[str], None] = field(default=lambda client: None)


@functools.lru_cache(maxsize=1)
def resident_node(run_dir: str, worker: int = 0) -> Node:
    experiment = open_experiment(run_dir)
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    training = experiment.training_context(recogniser, pick_device(experiment.config.device, worker))
    clients = {client.id: client for client in experiment.partition.clients}
    return Node(experiment, training, instantiate(experiment.config.weighting), clients)


@app.train()
def train(message: Message, context: Context) -> Message:
    node = resident_node(str(context.node_config["run-dir"]), int(context.node_config.get("worker", 0)))
    return reply_message(message, *train_clients(node, read_order(message)))


def train_clients(node: Node, order: Order) -> tuple[Update, dict[str, str]]:
    """One update of all the clients in `order`, and the reason for each that is not in it.

    One client's failure does not touch the others.
    """
    config = node.experiment.config
    update, failures = empty(len(order.weights)), {}
    for name in order.clients:
        try:
            client = node.clients[name]
            if not client.train:
                raise UpdateRefused("no speech to train on")
            result = train_client(
                node.training,
                client,
                order.weights,
                lr=order.lr,
                config=config.federation,
                evaluation=config.evaluation,
                seed=config.seed,
                server_round=order.server_round,
            )
            weight = node.weighting(result)
            add_client(update, result.delta, weight, client_totals(result))
        except UpdateRefused as refused:
            failures[name] = str(refused)
        except Exception as error:
            # The text of an exception may quote a client's data: it stays in the node's own log.
            log.exception("client %s failed", name)
            failures[name] = f"{type(error).__name__} at {_place(error)}"
        node.on_client(name)
    return update, failures


def client_totals(result: ClientResult) -> dict[str, int]:
    """The numbers besides a_k * delta_k and a_k that are summed over clients: all that leaves a client."""
    if not np.isfinite(result.loss):
        raise UpdateRefused(f"a loss of {result.loss}")
    return {
        "loss": fixed(result.loss),
        "word_errors": result.words.errors,
        "words": result.words.units,
        "examples": result.num_examples,
        "skipped_steps": result.skipped_steps,
        "audio_milliseconds": round(1000 * result.audio_seconds),
        "train_milliseconds": round(1000 * result.train_seconds),
    }


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
