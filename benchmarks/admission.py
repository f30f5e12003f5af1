"""What the checks of messages cost an honest round: all of them against none, in one run.

    python benchmarks/admission.py [--nodes 3] [--seconds 120] [--rounds 5]

Real nodes train real clients of `--seconds` seconds of noise each, and the server runs its own loop. Every message
becomes bytes and is read again on both sides, but without a network. Each admission function is timed where it is
called: on the node, reading an order, its policy and its journal; on the server, reading an answer, weight, variances,
clipping. All that these functions do counts as a check, also what a server without checks would have to do (taking
arrays out of a message, adding up). The proxy before the server is measured by itself, over TLS: the signature of each
request, and passing on as many bytes as a round has, against the same requests without it.

The ratio is (round + proxy) / (round - checks), for nodes that work at the same time. It is an upper bound.
"""

import argparse
import functools
import os
import socket
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from synthetic_clients import make_run

from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.engines.deployment import resident as resident_module
from asr_fed.engines.deployment.credentials import make_certificates, make_node_key
from asr_fed.engines.deployment.proxy import proxy
from asr_fed.engines.deployment.resident import Resident
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.deployment.signature import sign
from asr_fed.federation import round as round_module
from asr_fed.federation.federation import Federation
from asr_fed.federation.rounds import run_federation
from asr_fed.runs.experiment import open_experiment
from asr_fed.wire import ask as ask_module
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.inflate import inflate
from asr_fed.wire.members import Member, write_members

LARGEST = 1 << 30
POLLS = 2  # requests of an idle node in a second
OTHERS = 10  # further requests of a round, besides one an object: announcing, confirming, heartbeats
CHUNK = 5 << 20  # bytes, of Flower
NODE: tuple[tuple[Any, str], ...] = ((resident_module.Resident, "_own_order"), (resident_module.Resident, "_sent"))
SERVER: tuple[tuple[Any, str], ...] = (
    (Federation, "read_update"),
    (round_module, "combine"),
    (ask_module, "reply_ticket"),
)


class Clock:
    """Seconds that were spent in some functions; a call within another counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        started, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - started

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
    """Nodes in this process, one after the other. What each message costs is kept by round, in seconds."""

    def __init__(self, nodes: Sequence[Resident], node_clock: Clock, server_clock: Clock) -> None:
        self.nodes = dict(enumerate(nodes, 1))
        self._node, self._server = node_clock, server_clock
        self._answers: dict[str, Message] = {}
        self.worked: list[float] = []  # of each node in this round: all its work, checks included
        self.checked: list[float] = []  # of each node in this round: its checks
        self.bytes, self.objects = 0, 0  # of one node in a round, both ways

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Sequence[Message]) -> Iterable[str]:
        self.worked, self.checked = [], []
        for message in messages:
            node, sent = message.metadata.dst_node_id, _bytes_of(message)
            self.bytes, self.objects = sum(map(len, sent.values())), len(sent)
            started = time.perf_counter()
            with self._node.running():
                order = inflate(message.object_id, sent, LARGEST)
            set_message_id(order, message.object_id)
            reply = self.nodes[node].answer(order)
            self.worked.append(time.perf_counter() - started)
            self.checked.append(self._node.take())
            back = _bytes_of(reply)
            self.bytes, self.objects = self.bytes + sum(map(len, back.values())), self.objects + len(back)
            with self._server.running():
                self._answers[message.object_id] = inflate(reply.object_id, back, LARGEST)
            identify_process(run_id=1, node_id=0)
        return [message.object_id for message in messages]

    def pull_messages(self, message_ids: Collection[str]) -> Iterable[Message]:
        return [self._answers.pop(name) for name in message_ids if name in self._answers]


def _bytes_of(message: Message) -> dict[str, bytes]:
    return {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def measure(folder: Path, nodes: int, seconds: float, rounds: int) -> None:
    node_clock, server_clock = Clock(), Clock()
    for place, name in NODE:
        node_clock.watch(place, name)
    for place, name in SERVER:
        server_clock.watch(place, name)
    federation = {"rounds": rounds, "local_epochs": 1, "evaluate_every": rounds, "robust": {"clip_median": 3.0}}
    federation |= {"round_timeout": 600, "client_timeout": 600}
    engine = {"kind": "deployment", "address": "127.0.0.1:1", "nodes": nodes}  # nobody calls there
    run_dir = make_run(folder, nodes, seconds, federation, "tiny", threads=1, changes={"engine": engine})
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

        def on_round(history: Sequence[Any]) -> None:
            record = history[-1]
            slowest = max(range(nodes), key=lambda number: line.worked[number])
            server = record.round_seconds - sum(line.worked)
            found.append(
                {
                    "round": line.worked[slowest] + server,
                    "training": line.worked[slowest],
                    "checks of the node": line.checked[slowest],
                    "checks of the server": server_clock.take(),
                }
            )

        run_federation(open_experiment(run_dir), RemoteNodes(line), on_round)
    middle = {name: statistics.median(each[name] for each in found[1:]) for name in found[0]}
    requests = line.objects + OTHERS + round(POLLS * middle["round"])
    middle["proxy"] = proxy_seconds(folder, nodes * line.bytes, nodes * requests)
    checks = middle["checks of the node"] + middle["checks of the server"]
    for name, value in middle.items():
        print(f"{name:22}{value:9.4f} s")
    print(f"{nodes} nodes, {line.bytes / 1e6:.1f} MB and {requests} requests of each in a round, all checks on")
    ratio = (middle["round"] + middle["proxy"]) / (middle["round"] - checks)
    print(f"with all checks / without: {ratio:.4f}")


def proxy_seconds(folder: Path, size: int, requests: int) -> float:
    """What the proxy adds to so many requests, of which as few as possible carry `size` bytes."""

    async def take(request: Request) -> Response:
        await request.body()
        return Response(b"")

    certificates, inner, outer = folder / "certificates", free_port(), free_port()
    make_certificates(certificates, [])
    key = make_node_key(folder / "key").read_text()
    write_members(certificates, {1: Member("clinic", key=key)})
    app = Starlette(routes=[Route("/v1/fleet/{name}", take, methods=["POST"])])
    outside = proxy(f"https://127.0.0.1:{inner}", certificates)
    with serving(app, inner, certificates), serving(outside, outer, certificates):
        spent = {port: _send(port, certificates, folder / "key", size, requests) for port in (inner, outer)}
    return max(0.0, spent[outer] - spent[inner])


def _send(port: int, certificates: Path, key: Path, size: int, requests: int) -> float:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
        url, headers = f"https://127.0.0.1:{port}/v1/fleet/push-object", sign(key)
        client.post(url, headers=headers).raise_for_status()
        started, left = time.perf_counter(), size
        for _ in range(requests):
            body = bytes(min(CHUNK, left))
            left -= len(body)
            client.post(url, headers=headers, content=body).raise_for_status()
        return time.perf_counter() - started


@contextmanager
def serving(app: Starlette, port: int, certificates: Path) -> Iterator[None]:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            log_level="critical",
            ssl_certfile=certificates / "server.crt",
            ssl_keyfile=certificates / "server.key",
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="What admission checks cost an honest round.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0, help="speech of each node's client")
    parser.add_argument("--rounds", type=int, default=5, help="of which the first is not counted")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), chosen.nodes, chosen.seconds, chosen.rounds)
    print(f"load average {load:.1f} at the start")


if __name__ == "__main__":
    main()
