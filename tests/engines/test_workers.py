"""The engine with real worker processes: what they add up to, and what happens when they fall."""

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from asr_fed.aggregation.update import Update, add_client, empty, mean, merge
from asr_fed.engines.local_pool import LocalPool
from asr_fed.engines.workers import WORKER_ERROR, Workers
from asr_fed.federation.client_app import open_worker
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.state import read_state, state_sha256
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.runs.run_dir import begin_run, claim_run_dir
from asr_fed.wire.joining import query_message, read_report
from asr_fed.wire.messages import TOTALS, Order, Reply
from asr_fed.wire.rounds import order_clients, read_reply, reply_message
from tests.exchanging import order_to, replies_to
from tests.federation.inline_pool import InlinePool, WorkerDies
from tests.federation.plain_node import PlainNode, content
from tests.tiny import Corpus, settings, typed_config
from tests.waiting import PATIENCE, wait_until


class Federation:
    """A grid of two workers over an experiment with mishaps, and what each round brought."""

    def __init__(self, experiment: Experiment, folder: Path, grid: Workers, done: list[str]) -> None:
        self.experiment, self.folder, self.grid, self.done = experiment, folder, grid, done
        self.plain = PlainNode.of(experiment)
        self.weights = read_state(self.plain.training.recogniser.model)
        self.names = {len(client.train): client.id for client in experiment.partition.clients}
        self.setup = shared_config(experiment)

    def order(self, worker: int, server_round: int, sizes: list[int], setup: str | None = None) -> Message:
        clients = [self.names[size] for size in sizes]
        told = {"ticket": f"t{server_round}", "setup": setup or self.setup.sha256}
        return order_to(worker, clients, self.weights, server_round=server_round, **told)

    def orders(self, server_round: int) -> list[Message]:
        """The clients that behave on worker 1 with the one that raises; the others on worker 2, the deadly one last."""
        return [self.order(1, server_round, [4, 5, 10]), self.order(2, server_round, [6, 9])]

    def read(self, reply: Message, order: Message) -> Reply:
        return read_reply(reply, order_clients(order), len(self.weights))

    def expected(self, server_round: int, sizes: list[int]) -> Update:
        """What the plain function gives in this process."""
        names = tuple(self.names[size] for size in sizes)
        update, failures = self.plain.update(Order(server_round, 0.1, names, self.weights))
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
        begin_run(config)
        pool = LocalPool(functools.partial(open_worker, str(run_dir)), threads=1)
        with Workers(pool, 2, on_client=done.append, client_timeout=1) as grid:
            yield Federation(experiment, folder, grid, done)
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def first_round(federation: Federation) -> list[Message]:
    """In which a worker dies over its second client."""
    federation.done.clear()
    return replies_to(federation.grid, federation.orders(1))


@pytest.fixture(scope="module")
def first_replies(federation: Federation, first_round: list[Message]) -> list[Reply]:
    return [federation.read(*pair) for pair in zip(first_round, federation.orders(1), strict=True)]


def test_workers_tell_which_clients_they_host(federation: Federation) -> None:
    queries = [query_message(node, federation.setup) for node in (1, 2)]
    for answer in replies_to(federation.grid, queries):
        report = read_report(answer)
        assert report.clients.keys() == set(federation.names.values()) and not report.own
        assert {name: hosted.examples for name, hosted in report.clients.items()} == {
            name: size for size, name in federation.names.items()
        }
        assert report.setup == federation.setup.sha256


def test_every_message_is_answered_by_its_worker(federation: Federation, first_round: list[Message]) -> None:
    assert [message.metadata.src_node_id for message in first_round] == [1, 2]
    assert list(federation.grid.get_node_ids()) == [1, 2]
    assert not any(message.has_error() for message in first_round)


def test_a_client_that_raises_and_one_without_a_weight_are_named(
    federation: Federation, first_replies: list[Reply]
) -> None:
    failures = {name: reason for reply in first_replies for name, reason in reply.failures.items()}
    assert failures.keys() == {federation.names[5], federation.names[6]}
    assert failures[federation.names[5]].startswith("RuntimeError at faults.py:")
    assert "nan" in failures[federation.names[6]]


def test_a_killed_worker_is_replaced_and_the_round_ends_in_the_same_bits(
    federation: Federation, first_replies: list[Reply]
) -> None:
    assert (federation.folder / "died").exists()
    merged = merge(reply.update for reply in first_replies if reply.update is not None)
    expected = federation.expected(1, [9, 4, 10])
    assert content(merged) == content(expected)
    hashes = [state_sha256(federation.weights + mean(update)) for update in (merged, expected)]
    assert hashes[0] == hashes[1] != state_sha256(federation.weights)


def test_progress_names_every_client_once_and_the_grid_knows_how_long_each_took(
    federation: Federation, first_replies: list[Reply]
) -> None:
    assert sorted(federation.done) == sorted(federation.names.values())
    trained = federation.grid.client_seconds()
    assert {(node, client) for node, client, _ in trained} == {
        *((1, federation.names[size]) for size in (4, 5, 10)),
        *((2, federation.names[size]) for size in (6, 9)),
    }
    assert all(0 < seconds < PATIENCE for *_, seconds in trained)
    assert federation.grid.client_seconds() == []


def answer_of(grid: Workers, message_id: str) -> Message:
    replies: list[Message] = []
    wait_until(lambda: replies.extend(grid.receive([message_id])) or replies)  # type: ignore[func-returns-value]
    assert list(grid.receive([message_id])) == []
    return replies[0]


def test_a_newer_message_supersedes_an_older_one(federation: Federation, first_round: list[Message]) -> None:
    """The older one is left unfinished: its first client takes until the newer one is there."""
    grid, newer = federation.grid, federation.order(1, 3, [4])
    federation.done.clear()
    (federation.folder / "slow").touch()
    [old] = grid.send([federation.order(1, 2, [9, 10, 5])], PATIENCE)
    [new] = grid.send([newer], PATIENCE)
    (federation.folder / "slow").unlink()
    reply = answer_of(grid, new)
    assert reply.metadata.reply_to_message_id == new
    update = federation.read(reply, newer).update
    assert update is not None and content(update) == content(federation.expected(3, [4]))
    assert list(grid.receive([old])) == []
    assert not {federation.names[10], federation.names[5]} & set(federation.done)


def test_an_order_for_another_setup_is_an_error_and_the_worker_lives_on(federation: Federation) -> None:
    before = workers()
    [reply] = replies_to(federation.grid, [federation.order(1, 3, [4], setup="another")])
    assert reply.error.code == WORKER_ERROR and "setup" in str(reply.error.reason)
    order = federation.order(1, 3, [4])
    [reply] = replies_to(federation.grid, [order])
    assert federation.read(reply, order).update is not None
    assert workers() == before, "it was started again"


def workers() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_a_client_that_hangs_is_left_out_and_takes_nobody_along(
    federation: Federation, first_round: list[Message]
) -> None:
    replies_to(federation.grid, [federation.order(2, 4, [10])])
    slowest = max(seconds for *_, seconds in federation.grid.client_seconds())
    (federation.folder / "stuck").touch()
    order, limit = federation.order(2, 4, [9, 10]), round(8 + 40 * slowest)
    [reply] = replies_to(federation.grid, [order], patience=limit)
    (federation.folder / "stuck").unlink()
    read = federation.read(reply, order)
    assert list(read.failures) == [federation.names[9]] and f"{limit} s" in read.failures[federation.names[9]]
    assert read.update is not None and content(read.update) == content(federation.expected(4, [10]))


def test_a_worker_that_does_not_answer_in_time_is_given_up(federation: Federation, first_round: list[Message]) -> None:
    (federation.folder / "stuck").touch()
    first, second = federation.orders(5)
    ids = federation.grid.send([first, second], PATIENCE)
    assert federation.read(answer_of(federation.grid, ids[0]), first).update is not None
    federation.grid.give_up(ids)
    (federation.folder / "stuck").unlink()
    assert federation.grid.receive(ids) == [], "nobody waits for it any longer"
    again = federation.order(2, 5, [4])
    [reply] = replies_to(federation.grid, [again])  # by its successor
    assert federation.read(reply, again).update is not None


def test_a_client_that_kills_its_workers_is_left_out_and_takes_nobody_along(
    federation: Federation, first_round: list[Message]
) -> None:
    (federation.folder / "always").touch()
    order = federation.order(2, 6, [10, 9, 4])
    [reply] = replies_to(federation.grid, [order])
    (federation.folder / "always").unlink()
    read = federation.read(reply, order)
    assert list(read.failures) == [federation.names[9]] and "exit code -9" in read.failures[federation.names[9]]
    assert read.update is not None and content(read.update) == content(federation.expected(6, [10, 4]))
    assert np.isfinite(mean(read.update)).all()


def open_mortal(
    number: int, on_client: Callable[[str, float], None], superseded: Callable[[], bool]
) -> Callable[[Message], Message]:
    """A worker that dies over every client whose name begins with `deadly`."""

    def handle(message: Message) -> Message:
        update, counts = empty(1), {name: 0 for name in TOTALS if name not in ("clients", "weight_squared")}
        for client in order_clients(message):
            if client.startswith("deadly"):
                raise WorkerDies
            add_client(update, np.zeros(1, np.float32), 1.0, counts)
            on_client(client, 0.0)
        return reply_message(message, update, {})

    return handle


@pytest.mark.parametrize("clients", [["deadly"], ["a", "deadly"], ["deadly", "a"], ["deadly 1", "a", "deadly 2"]])
def test_whoever_is_left_is_trained_and_the_others_are_named(clients: list[str]) -> None:
    told: list[str] = []
    with Workers(InlinePool(open_mortal), 1, on_client=told.append) as grid:
        [reply] = replies_to(grid, [order_to(1, clients, np.zeros(1, np.float32))])
    read = read_reply(reply, clients, 1)
    assert read.failures == {
        name: "its worker was lost over it: worker 1 died" for name in clients if name.startswith("deadly")
    }
    left = [name for name in clients if name not in read.failures]
    assert told == left
    assert (read.update is None) if not left else (read.update is not None and read.update.totals["clients"] == 1)


def test_workers_that_cannot_start_say_why(tmp_path: Path) -> None:
    pool = LocalPool(functools.partial(open_worker, str(tmp_path / "nowhere")))
    with Workers(pool, 1) as grid:
        [reply] = replies_to(grid, [order_to(1, ["a"], np.zeros(1, np.float32))])
    assert reply.error.code == WORKER_ERROR and "is not a run directory" in str(reply.error.reason)
