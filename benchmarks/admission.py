"""What the checks of messages cost an honest round: all of them against none, in one run.

    python benchmarks/admission.py [--nodes 3] [--seconds 120] [--rounds 5] [--model tiny]

Real nodes train real clients of `--seconds` seconds of noise each, and the server runs its own loop. Every message
becomes bytes and is read again on both sides, but without a network. Each admission function is timed where it is
called: on the node, reading an order, its policy and its journal; on the server, reading an answer, weight, variances,
clipping. All that these functions do counts as a check, also what a server without checks would have to do (taking
arrays out of a message, adding up). The proxy is a process of its own and measured by itself, over TLS, with the bytes
and requests of a round.

All seconds are of CPU, of the process that does the work. With one thread for each, they are the seconds of a machine
that has nothing else to do, also on a busy one. Nodes work at the same time, each on its own machine: the round is that
of the slowest and the server's part. The proxy serves them one after the other. The ratio is (round + proxy) / (round -
checks), and an upper bound. What the checks cost does not depend on the length of the round, so that the length from
which they are below 3 % follows.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from synthetic_clients import make_run
from through_proxy import cpu_seconds, proxy_cost

from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.engines.deployment import resident as resident_module
from asr_fed.engines.deployment.resident import Resident
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.federation import round as round_module
from asr_fed.federation.federation import Federation
from asr_fed.federation.rounds import run_federation
from asr_fed.runs.experiment import open_experiment
from asr_fed.wire import ask as ask_module
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.inflate import inflate

LARGEST = 1 << 30
POLLS = (
    2  # requests in a second of a node that has nothing to do, as while the server sums; one that trains asks nothing
)
OTHERS = 10  # further requests of a round, besides one an object: announcing, confirming, heartbeats
AIM = 0.03
NODE: tuple[tuple[Any, str], ...] = ((resident_module.Resident, "_own_order"), (resident_module.Resident, "_sent"))
SERVER: tuple[tuple[Any, str], ...] = (
    (Federation, "read_update"),
    (round_module, "combine"),
    (ask_module, "reply_ticket"),
)


def spent() -> float:
    """CPU seconds of this process and of its workers so far."""
    return time.process_time() + sum(cpu_seconds(int(child.pid or 0)) for child in active_children())


class Clock:
    """CPU seconds that were spent in some functions; a call within another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        started, self._depth = time.process_time(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.process_time() - started

    def watch(self, place: Any, name: str) -> None:
        function = getattr(place, name)

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            with self.running():
                return function(*given, **named)

        setattr(place, name, timed)

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Line:
    """Nodes in this process, one after the other. What each message costs is kept by round, in CPU seconds."""

    def __init__(self, nodes: Sequence[Resident], node_clock: Clock, server_clock: Clock) -> None:
        self.nodes = dict(enumerate(nodes, 1))
        self._node, self._server = node_clock, server_clock
        self._answers: dict[str, Message] = {}
        self.worked: list[float] = []  # of each node in this round: all its work, checks included
        self.checked: list[float] = []  # of each node in this round: its checks
        self.down, self.up, self.objects = 0, 0, 0  # bytes and objects of one node in a round

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Sequence[Message]) -> Iterable[str]:
        self.worked, self.checked = [], []
        for message in messages:
            node, sent = message.metadata.dst_node_id, _bytes_of(message)
            self.down, self.objects = sum(map(len, sent.values())), len(sent)  # before `inflate` takes them
            started = spent()
            with self._node.running():
                order = inflate(message.object_id, sent, LARGEST)
            set_message_id(order, message.object_id)
            reply = self.nodes[node].answer(order)
            self.worked.append(spent() - started)
            self.checked.append(self._node.take())
            back = _bytes_of(reply)
            self.up, self.objects = sum(map(len, back.values())), self.objects + len(back)
            with self._server.running():
                self._answers[message.object_id] = inflate(reply.object_id, back, LARGEST)
            identify_process(run_id=1, node_id=0)
        return [message.object_id for message in messages]

    def pull_messages(self, message_ids: Collection[str]) -> Iterable[Message]:
        return [self._answers.pop(name) for name in message_ids if name in self._answers]


def _bytes_of(message: Message) -> dict[str, bytes]:
    return {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def measure(folder: Path, nodes: int, seconds: float, rounds: int, model: str) -> None:
    node_clock, server_clock = Clock(), Clock()
    for place, name in NODE:
        node_clock.watch(place, name)
    for place, name in SERVER:
        server_clock.watch(place, name)
    federation = {"rounds": rounds, "local_epochs": 1, "evaluate_every": rounds, "robust": {"clip_median": 3.0}}
    federation |= {"round_timeout": 600, "client_timeout": 600}
    engine = {"kind": "deployment", "address": "127.0.0.1:1", "nodes": nodes}  # nobody calls there
    run_dir = make_run(folder, nodes, seconds, federation, model, threads=1, changes={"engine": engine})
    found: list[dict[str, float]] = []
    with ExitStack() as stack:
        silos = []
        for client in read_partition(run_dir / "partition").clients:
            home = folder / client.id
            write_partition(Partition((), (), (), (), (client,)), home / "partition")
            settings = NodeSettings(
                client.id, "none", str(home / "state"), partition=str(home / "partition"), workers=1
            )
            silos.append(stack.enter_context(Resident(settings, say=lambda text: None)))
        line = Line(silos, node_clock, server_clock)
        identify_process(run_id=1, node_id=0)

        last = [spent()]

        def on_round(history: Sequence[Any]) -> None:
            now = spent()
            slowest = max(range(nodes), key=lambda number: line.worked[number])
            server = now - last[0] - sum(line.worked)
            found.append(
                {
                    "round": line.worked[slowest] + server,
                    "slowest node": line.worked[slowest],
                    "server": server,
                    "checks of the node": line.checked[slowest],
                    "checks of the server": server_clock.take(),
                }
            )
            last[0] = spent()

        run_federation(open_experiment(run_dir), RemoteNodes(line), on_round)
    middle = {name: statistics.median(each[name] for each in found[1:]) for name in found[0]}
    requests = line.objects + OTHERS + round(POLLS * middle["server"])
    proxy = proxy_cost(folder, nodes * line.up, nodes * line.down, nodes * requests)
    checks = middle["checks of the node"] + middle["checks of the server"]
    for name, value in {**middle, "proxy": proxy.cpu}.items():
        print(f"{name:22}{value:9.4f} s")
    both = f"{line.down / 1e6:.1f} MB down and {line.up / 1e6:.1f} MB up"
    print(f"{nodes} nodes, each {both} in {requests} requests a round")
    print(f"one after the other, the requests took {proxy.longer:.2f} s longer with the proxy")
    without = middle["round"] - checks
    print(f"with all checks / without: {(middle['round'] + proxy.cpu) / without:.4f}")
    for what, cost in (("without the proxy", checks), ("with the proxy", checks + proxy.cpu)):
        print(f"{what}: {cost:.3f} s, less than {AIM:.0%} of rounds of more than {cost / AIM:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="What admission checks cost an honest round.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0, help="speech of each node's client")
    parser.add_argument("--rounds", type=int, default=5, help="of which the first is not counted")
    parser.add_argument("--model", default="tiny", help="a file of hparams/model (%(default)s)")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), chosen.nodes, chosen.seconds, chosen.rounds, chosen.model)
    print(f"load average {load:.1f} at the start")


if __name__ == "__main__":
    main()
