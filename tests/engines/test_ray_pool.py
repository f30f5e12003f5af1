"""Ray actors as workers: the same bits as anywhere else, and what happens when they fall. Needs Ray and two cores."""

import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message

from asr_fed.aggregation.update import Update, mean, merge
from asr_fed.engines import ray_pool
from asr_fed.engines.ray_cluster import import_ray
from asr_fed.engines.ray_pool import RayPool
from asr_fed.engines.workers import Event, WorkerError, WorkerLost, Workers
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.state import read_state, state_sha256
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.runs.run_dir import begin_run, claim_run_dir
from asr_fed.system.errors import UserError
from asr_fed.wire.flower_private import identify_process
from asr_fed.wire.messages import Order, Reply
from asr_fed.wire.rounds import order_arrays, order_message, read_reply
from tests.engines.ray_toys import open_nothing, open_with_toys, toy_order
from tests.exchanging import replies_to
from tests.federation.plain_node import PlainNode, content
from tests.tiny import Corpus, settings, typed_config
from tests.waiting import PATIENCE, wait_until

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs Ray", allow_module_level=True)
ray = import_ray(own_cluster=True)
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below this one but those of Python's own workers, by process id."""
    listing = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    table = {int(row[0]): (int(row[1]), row[2]) for row in (line.split(None, 2) for line in listing.splitlines())}
    found: dict[int, str] = {}
    below = {pid}
    while below:
        below = {child for child, (parent, _) in table.items() if parent in below}
        found |= {child: table[child][1] for child in below}
    return {child: line for child, line in found.items() if "multiprocessing" not in line}


def wait_for_the_end_of(processes: dict[int, str]) -> None:
    def left() -> dict[int, str]:
        return {pid: line for pid, line in processes.items() if not is_zombie(pid)}

    wait_until(lambda: not left(), left)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(pool: RayPool, node: int) -> Event:
    [(found, event)] = pool.receive([node], PATIENCE)
    assert found == node
    return event


class OtherJob:
    def there(self) -> bool:
        return True


def test_trouble_at_the_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    identify_process(run_id=1, node_id=0)
    with closing(RayPool(open_nothing)) as pool:
        pool.start(1)
        for _ in range(2):  # however often it is asked
            pool.send(1, toy_order(1, "a"))
            event = wait_for(pool, 1)
            assert isinstance(event, WorkerError)
            assert "There is no such folder." in event.reason and "data.prepared" in event.reason

        other_job = ray.remote(OtherJob).options(num_cpus=pool.room() - 1).remote()
        ray.get(other_job.there.remote())
        monkeypatch.setattr(ray_pool, "ROOM_TIMEOUT", 1.0)
        pool.start(2)
        event = wait_for(pool, 2)
        assert isinstance(event, WorkerLost) and "no room for worker 2" in event.reason

        room = pool.room()
        for node in range(3, room + 1):
            pool.start(node)
        with pytest.raises(UserError, match=rf"room for {room} workers of 1 CPU.*engine\.workers"):
            pool.start(room + 1)
        assert not ray.is_initialized()


def test_a_cluster_that_is_not_there_and_a_missing_ray_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"engine\.address=nowhere:1.*ray start"):
        RayPool(open_nothing, address="nowhere:1")
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=re.escape('pip install "asr_fed[ray]"')):
        RayPool(open_nothing)


def test_a_ray_that_was_imported_before_is_not_given_settings_that_it_does_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its cluster would not start: one half of Ray would want a token, the other would send none."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert import_ray(own_cluster=True) is ray
    assert "RAY_AUTH_MODE" not in os.environ and "without a token" in caplog.text


def test_ctrl_c_ends_everything_though_a_worker_sleeps() -> None:
    command = [sys.executable, "-c", "from tests.engines.ray_toys import train_for_ever as f; f()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "training\n"
        started = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(PATIENCE) == 130
    # Ray renames its workers where the first of their environment's variables lets it.
    assert any("RayWorker" in line or "default_worker" in line for line in started.values()), started
    wait_for_the_end_of(started)


STRANGER = """
import sys
import ray

@ray.remote(num_cpus=0)  # the workers have taken all cores
def intrude():
    return "ran a function"

ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(intrude.remote()))
"""


def stranger(address: str, **environment: str) -> str:
    """What another process of this machine prints that joins the cluster at `address` to run a function there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    own["RAY_NUM_REDIS_GET_RETRIES"] = "2"  # how often it knocks, a second apart; by default 20 times
    process = subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env=own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE,
    )
    return process.stdout


def listening(pid: int) -> set[str]:
    """The addresses on which a process takes TCP connections, as in /proc/net/tcp."""
    links, sockets = list[Path](), set[str]()
    with suppress(OSError):  # it has ended
        links += Path(f"/proc/{pid}/fd").iterdir()
    for link in links:
        with suppress(OSError):  # it has been closed
            sockets.add(os.readlink(link))
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


class Federation:
    """A grid of two actors over an experiment with mishaps. Clients are called by their number of utterances."""

    def __init__(self, experiment: Experiment, folder: Path, grid: Workers, done: list[str]) -> None:
        self.experiment, self.folder, self.grid, self.done = experiment, folder, grid, done
        self.recogniser = experiment.fresh_recogniser()
        self.weights = read_state(self.recogniser.model)
        self.setup = shared_config(experiment).sha256
        self.clients = {len(client.train): client for client in experiment.partition.clients}

    def order(self, node: int, server_round: int, sizes: list[int], record: ArrayRecord | None = None) -> Message:
        names = [self.clients[size].id for size in sizes]
        order = Order(server_round, 0.1, tuple(names), self.weights, setup=self.setup)
        return order_message(node, order, record or order_arrays(order))

    def read(self, message: Message, sizes: list[int]) -> Reply:
        assert not message.has_error(), message.error.reason
        return read_reply(message, [self.clients[size].id for size in sizes], len(self.weights))

    def expected(self, server_round: int, sizes: list[int]) -> Update:
        """What the plain function gives in this process."""
        order = Order(server_round, 0.1, tuple(self.clients[size].id for size in sizes), self.weights)
        update, failures = PlainNode.of(self.experiment).update(order)
        assert failures == {}
        return update


@pytest.fixture(scope="module")
def federation(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    run_dir, folder = tmp_path_factory.mktemp("ray"), tmp_path_factory.mktemp("mishaps")
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
        pool = RayPool(functools.partial(open_with_toys, str(run_dir)))
        with Workers(pool, 2, on_client=done.append) as grid:
            yield Federation(experiment, folder, grid, done)
            started = descendants(os.getpid())
            assert any("raylet" in line for line in started.values())
    assert not ray.is_initialized()
    wait_for_the_end_of(started)


def bits(update: Update | None) -> tuple:
    assert update is not None
    return content(update)


@pytest.fixture(scope="module")
def first_round(federation: Federation) -> list[Reply]:
    """In which an actor dies over its second client."""
    shares = {1: [4, 5, 10], 2: [6, 9]}
    orders = [federation.order(node, 1, sizes) for node, sizes in shares.items()]
    messages = replies_to(federation.grid, orders)
    return [federation.read(message, shares[message.metadata.src_node_id]) for message in messages]


def test_nobody_without_its_token_runs_a_function_in_our_own_cluster(
    federation: Federation, first_round: list[Reply]
) -> None:
    """Whoever knew its address could: as our user, over all addresses of this machine."""
    address = ray.get_runtime_context().gcs_address
    token = os.environ["RAY_AUTH_TOKEN"]
    assert stranger(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "ran a function\n"
    assert stranger(address) == ""
    assert stranger(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64) == ""


def test_our_own_cluster_listens_on_the_loopback_alone(federation: Federation, first_round: list[Reply]) -> None:
    listeners = {line: found for pid, line in descendants(os.getpid()).items() if (found := listening(pid))}
    assert any("gcs_server" in line for line in listeners)
    assert {line: found for line, found in listeners.items() if not found <= LOOPBACK} == {}


def test_a_killed_actor_is_replaced_and_the_round_ends_in_the_bits_of_the_plain_function(
    federation: Federation, first_round: list[Reply]
) -> None:
    assert (federation.folder / "died").exists()
    merged = merge(reply.update for reply in first_round if reply.update is not None)
    expected = federation.expected(1, [9, 4, 10])
    assert bits(merged) == bits(expected)
    hashes = [state_sha256(federation.weights + mean(update)) for update in (merged, expected)]
    assert hashes[0] == hashes[1] != state_sha256(federation.weights)


def test_clients_that_go_wrong_are_named_and_progress_tells_of_each_client_once(
    federation: Federation, first_round: list[Reply]
) -> None:
    raised, weightless = (reply.failures for reply in first_round)
    assert raised.keys() == {federation.clients[5].id} and weightless.keys() == {federation.clients[6].id}
    assert raised[federation.clients[5].id].startswith("RuntimeError at faults.py:")
    assert sorted(federation.done) == sorted(client.id for client in federation.clients.values())


def test_the_weights_are_put_into_the_object_store_once_a_round(
    federation: Federation, first_round: list[Reply], monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[Any] = []
    really_put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: put.append(value) or really_put(value))
    for server_round in (2, 3):
        record = order_arrays(Order(server_round, 0.1, (), federation.weights))
        orders = [federation.order(node, server_round, [size], record) for node, size in ((1, 4), (2, 10))]
        first, second = replies_to(federation.grid, orders)
        assert bits(federation.read(first, [4]).update) == bits(federation.expected(server_round, [4]))
        assert bits(federation.read(second, [10]).update) == bits(federation.expected(server_round, [10]))
        assert put.pop() is record and put == []


def test_only_the_client_over_which_actors_die_again_and_again_is_left_out(
    federation: Federation, first_round: list[Reply]
) -> None:
    federation.done.clear()
    [message] = replies_to(federation.grid, [toy_order(2, "first", "second", "kills", "last")])
    assert not message.has_error(), message.error.reason
    failures: Any = message.content["failures"]
    assert failures["clients"] == ["kills"] and "worker 2 was lost" in failures["reasons"][0]
    assert sorted(federation.done) == ["first", "last", "second"]


def test_a_newer_order_ends_an_older_one_whose_news_are_not_taken_for_its_own(
    federation: Federation, first_round: list[Reply]
) -> None:
    federation.done.clear()
    [old] = federation.grid.send([toy_order(1, "endless")])
    while not federation.done:
        assert list(federation.grid.receive([old])) == []
    federation.done.clear()
    [new] = federation.grid.send([toy_order(1, "newer")])
    replies: list[Message] = []
    while not replies:
        replies = list(federation.grid.receive([old, new]))
    assert [reply.metadata.reply_to_message_id for reply in replies] == [new]
    assert federation.done == ["newer"]
