"""The engine with real worker processes: what they add up to, and what happens when they fall."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from asr_fed.data.partition import Client
from asr_fed.experiment import Experiment, prepare_experiment
from asr_fed.federation.client_app import Node, train_clients
from asr_fed.federation.local_grid import TIMED_OUT, WORKER_LOST, LocalGrid
from asr_fed.federation.messages import Order, order_message, read_reply, weights_record
from asr_fed.federation.update import Update, mean_delta, merge
from asr_fed.federation.weighting import WerSoftmax
from asr_fed.model.recogniser import save_recogniser
from asr_fed.run_dir import claim_run_dir
from asr_fed.training.state import read_state, state_sha256
from tests.tiny import Corpus, settings, typed_config


class Federation:
    """A grid of two workers over an experiment with mishaps, and what each round brought."""

    def __init__(self, experiment: Experiment, folder: Path, grid: LocalGrid, done: list[str]) -> None:
        self.experiment, self.folder, self.grid, self.done = experiment, folder, grid, done
        recogniser = experiment.fresh_recogniser()
        self.context = experiment.training_context(recogniser, torch.device("cpu"))
        self.weights = read_state(recogniser.model)
        self.names = {len(client.train): client.id for client in experiment.partition.clients}

    def orders(self, server_round: int) -> list[Message]:
        """The clients that behave on worker 1 with the one that raises; the others on worker 2, the deadly one last."""
        shares = {1: [4, 5, 10], 2: [6, 9]}
        record = weights_record(self.weights)
        return [
            order_message(worker, server_round, 0.1, [self.names[size] for size in sizes], record)
            for worker, sizes in shares.items()
        ]

    def expected(self, server_round: int, sizes: list[int]) -> Update:
        """What the plain function gives in this process."""
        clients: dict[str, Client] = {client.id: client for client in self.experiment.partition.clients}
        node = Node(self.experiment, self.context, WerSoftmax(), clients)
        names = tuple(self.names[size] for size in sizes)
        update, failures = train_clients(node, Order(server_round, 0.1, names, self.weights))
        assert failures == {}
        return update


@pytest.fixture(scope="module")
def federation(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    run_dir, folder = tmp_path_factory.mktemp("grid"), tmp_path_factory.mktemp("mishaps")
    content = settings(corpus, prepared, run_dir)
    content["weighting"] = {
        "_target_": "tests.faults.Mishaps",
        "folder": str(folder),
        "raises_at": 5,
        "nan_at": 6,
        "dies_at": 9,
    }
    config = typed_config(content)
    done: list[str] = []
    with claim_run_dir(config):
        experiment = prepare_experiment(config)
        save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
        with LocalGrid(str(run_dir), workers=2, threads=1, on_client=done.append) as grid:
            yield Federation(experiment, folder, grid, done)
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def first_round(federation: Federation) -> list[Message]:
    """In which a worker dies over its second client."""
    return list(federation.grid.send_and_receive(federation.orders(1)))


def content(update: Update) -> tuple:
    totals = {name: value for name, value in update.totals.items() if name != "train_milliseconds"}
    return update.sums.tobytes(), update.weight, update.peak, totals


def test_every_message_is_answered_by_its_worker(federation: Federation, first_round: list[Message]) -> None:
    assert [message.metadata.src_node_id for message in first_round] == [1, 2]
    assert list(federation.grid.get_node_ids()) == [1, 2]
    assert not any(message.has_error() for message in first_round)


def test_a_client_that_raises_and_one_without_a_weight_are_named(
    federation: Federation, first_round: list[Message]
) -> None:
    failures = {name: reason for message in first_round for name, reason in read_reply(message).failures.items()}
    assert failures.keys() == {federation.names[5], federation.names[6]}
    assert failures[federation.names[5]].startswith("RuntimeError at faults.py:")
    assert "nan" in failures[federation.names[6]]


def test_a_killed_worker_is_replaced_and_the_round_ends_in_the_same_bits(
    federation: Federation, first_round: list[Message]
) -> None:
    assert (federation.folder / "died").exists()
    updates = [read_reply(message).update for message in first_round]
    merged = merge(update for update in updates if update is not None)
    expected = federation.expected(1, [9, 4, 10])
    assert content(merged) == content(expected)
    hashes = [state_sha256(federation.weights + mean_delta(update)) for update in (merged, expected)]
    assert hashes[0] == hashes[1] != state_sha256(federation.weights)


def test_progress_names_every_client_once(federation: Federation, first_round: list[Message]) -> None:
    assert sorted(federation.done) == sorted(federation.names.values())


def test_messages_can_be_pushed_and_pulled_but_one_at_a_time_a_worker(
    federation: Federation, first_round: list[Message]
) -> None:
    grid = federation.grid
    record = weights_record(federation.weights)
    message = order_message(1, 2, 0.1, [federation.names[4]], record)
    [message_id] = grid.push_messages([message])
    with pytest.raises(ValueError, match="worker 1"):
        grid.push_messages([order_message(1, 2, 0.1, [federation.names[4]], record)])
    deadline, replies = time.monotonic() + 30, []
    while not replies and time.monotonic() < deadline:
        replies = list(grid.pull_messages([message_id]))
        time.sleep(0.01)
    [reply] = replies
    assert reply.metadata.reply_to_message_id == message_id
    update = read_reply(reply).update
    assert update is not None and content(update) == content(federation.expected(2, [4]))
    assert list(grid.pull_messages([message_id])) == []


def test_a_worker_that_does_not_answer_in_time_is_given_up_and_replaced(
    federation: Federation, first_round: list[Message]
) -> None:
    (federation.folder / "stuck").touch()
    started = time.monotonic()
    first, second = federation.grid.send_and_receive(federation.orders(3), timeout=6)
    (federation.folder / "stuck").unlink()
    assert time.monotonic() - started < 20
    assert not first.has_error()
    assert second.error.code == TIMED_OUT and "6 s" in second.error.reason
    assert second.metadata.src_node_id == 2


def test_a_worker_that_dies_over_and_over_loses_its_message_only(
    federation: Federation, first_round: list[Message]
) -> None:
    (federation.folder / "always").touch()
    first, second = federation.grid.send_and_receive(federation.orders(4))
    (federation.folder / "always").unlink()
    update = read_reply(first).update
    assert update is not None and content(update) == content(federation.expected(4, [4, 10]))
    assert second.error.code == WORKER_LOST and "-9" in second.error.reason
    assert np.isfinite(mean_delta(update)).all()
