"""From nothing to a federation of three silos on this machine, with keys and TLS as between real ones.

    python recipes/deployment/three_silos.py prepare   # a corpus dealt to three silos and a server; certificates, keys
    python recipes/deployment/three_silos.py start     # the server's SuperLink and the three nodes, in the background
    python recipes/deployment/three_silos.py train     # hparams/demo_fr.yaml over them
    python recipes/deployment/three_silos.py status
    python recipes/deployment/three_silos.py stop

Each command that it runs is printed: on machines of their own you would type the same. README.md has more.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config
from asr_fed.data.manifest import Utterance, write_manifest
from asr_fed.data.partition import Partition, describe
from asr_fed.data.partition_files import write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.engines.deployment.flower import CONNECTION, flwr, tail, write_connection
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status

TRAIN_FED = Path(__file__).parents[2] / "train_fed.py"
EXPERIMENT = experiments_folder() / "demo_fr.yaml"
SILOS = 3
PATIENCE = 180  # seconds for all to be up, or to end: a minute and a half on the busiest machine that was seen
PORTS = Path("server", "ports.yaml")  # written last by `prepare`


def prepare(folder: Path, mixed: bool, port: int, control_port: int) -> None:
    """Make `folder`: a corpus, what the server has of it, and a folder a node with its own speech, key and node.yaml.

    With `mixed` the first client is a silo, and the others are simulated by one virtual node.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already. Start it, remove it, or choose another --folder.")
    partition = deal(folder / "corpus")
    print(describe(partition))
    server = folder / "server"
    parts = partition.warm_up + partition.dev + partition.test
    write_manifest(server / "manifest.csv", take(parts, server))
    warm_up = sorted({utterance.speaker for utterance in partition.warm_up})
    (server / "warm_up.txt").write_text("".join(f"{speaker}\n" for speaker in warm_up))
    run("certificates", server / "certificates")

    silos, simulated = (partition.clients[:1], partition.clients[1:]) if mixed else (partition.clients, ())
    for client in silos:
        node = folder / client.id
        write_manifest(node / "manifest.csv", take(client.utterances, node))
        make_node(node, server, port, {"manifest": "manifest.csv"})
    if simulated:
        node = folder / "virtual"
        speech = node / "partition"
        clients = tuple(
            replace(client, train=take(client.train, speech), dev=take(client.dev, speech)) for client in simulated
        )
        write_partition(Partition((), (), (), (), clients), speech)
        make_node(node, server, port, {"partition": "partition"})
    (folder / PORTS).write_text(yaml.safe_dump({"port": port, "control_port": control_port}))


def deal(corpus: Path) -> Partition:
    """Speak the experiment's corpus, and divide it as a simulation of three silos does."""
    ConfigStore.instance().store("schema", Config)
    with initialize_config_dir(str(EXPERIMENT.parent), version_base="1.3"):
        changes = [f"federation.clients.count={SILOS}", f"data.root={corpus}", "run_dir=none"]
        config: Config = OmegaConf.to_object(compose(EXPERIMENT.stem, changes))  # type: ignore[assignment]
    utterances = instantiate(config.data.prepare, manifest=str(corpus / "manifest.csv"))
    return partition_speakers(utterances, config.data.parts, config.federation.clients, config.seed)


def take(utterances: Iterable[Utterance], folder: Path) -> tuple[Utterance, ...]:
    """Copy the recordings to `folder`/clips; the same utterances, with paths that start at `folder`."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    return tuple(
        replace(utterance, wav=str(Path(shutil.copy(utterance.wav, folder / "clips")).relative_to(folder)))
        for utterance in utterances
    )


def make_node(node: Path, server: Path, port: int, speech: dict[str, str]) -> None:
    """What the node's owner does; and what crosses over: ca.crt from the server, the public key to it."""
    run("key", node / "key")
    shutil.copy(server / "certificates" / "ca.crt", node)
    (server / "keys").mkdir(exist_ok=True)
    shutil.copy(node / "key.pub", server / "keys" / f"{node.name}.pub")
    line = {"name": node.name, "superlink": f"127.0.0.1:{port}", "certificate": "ca.crt", "key": "key"}
    settings = line | speech | {"folder": "state", "workers": 1}
    (node / "node.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def start(folder: Path) -> None:
    """Start the SuperLink, admit the nodes, start them; returns when all are connected, else ends what it started."""
    ports = read_ports(folder)
    if names := [place.name for place in places(folder) if running(place)]:
        raise UserError(f"{', '.join(names)} of {folder} run already. Look with status, end with stop.")
    server, *nodes = places(folder)
    control = f"--control-port={ports['control_port']}"
    certificates = f"--certificates={server / 'certificates'}"
    listen = ("--host=127.0.0.1", f"--port={ports['port']}", control)
    try:
        start_process(server, "superlink", server / "superlink", certificates, *listen)
        wait_for([server], lambda: "nodes come in" in (server / "log").read_text())
        for node in nodes:
            limits = ("--clients=100", "--simulated") if (node / "partition").is_dir() else ()
            run("register", server / "keys" / f"{node.name}.pub", node.name, *limits, certificates, control)
        for node in nodes:
            start_process(node, "node", node / "node.yaml")
        wait_for(places(folder), lambda: connected(server, ports["control_port"]) == len(nodes))
    except BaseException:
        stop(folder)
        raise
    print(
        f"\nAll are up. Each writes to the file log in its folder. Train over them with\n\n{show(training(folder))}\n"
    )


def train(folder: Path, overrides: list[str]) -> None:
    """Become the command of the training."""
    server = places(folder)[0]
    if not running(server):
        raise UserError(f"The server of {folder} is not running: start it first.")
    command = training(folder, overrides)
    print(f"$ {show(command)}", flush=True)
    os.execv(command[0], command)


def training(folder: Path, overrides: Iterable[str] = ()) -> list[str]:
    """The command that trains over the nodes of `folder`, in a run directory of its own."""
    server, *nodes = places(folder)
    return [
        *(sys.executable, str(TRAIN_FED), str(EXPERIMENT)),
        # The server has speech of its own only, and knows which of it is for the warm start.
        *("data.prepare=null", f"data.prepared={server}"),
        *("data.parts.warm_up_speakers=null", f"data.parts.warm_up_file={server / 'warm_up.txt'}"),
        "central.after_federation=false",  # nobody here has the speech for it
        *("engine=deployment", f"engine.address=127.0.0.1:{read_ports(folder)['control_port']}"),
        *(f"engine.certificates={server / 'certificates'}", f"engine.nodes={len(nodes)}"),
        *("federation.round_timeout=1800", "federation.client_timeout=900"),
        f"run_dir={folder / 'runs' / time.strftime('%Y%m%d-%H%M%S')}",
        *overrides,
    ]


def status(folder: Path) -> None:
    """Print a line for each process, and how many nodes are connected."""
    ports = read_ports(folder)
    server, *nodes = places(folder)
    for place in (server, *nodes):
        pid = running(place)
        print(f"{place.name:12} {f'process {pid}' if pid else 'not running'}")
    online = connected(server, ports["control_port"]) if running(server) else 0
    print(f"{online} of {len(nodes)} nodes are connected.")


def stop(folder: Path) -> None:
    """End the nodes, then the SuperLink, and with each whatever it started."""
    server, *nodes = places(folder)
    for group in (nodes, [server]):
        pids = {place: pid for place in group if (pid := running(place))}
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while any(map(running, pids)) and time.monotonic() < deadline:
            time.sleep(0.2)
        for place, pid in pids.items():
            if running(place):
                os.killpg(pid, signal.SIGKILL)
            (place / "pid").unlink()
            print(f"{place.name} has ended.")


def places(folder: Path) -> list[Path]:
    """The server's folder and those of the nodes."""
    return [folder / "server", *(path.parent for path in sorted(folder.glob("*/node.yaml")))]


def read_ports(folder: Path) -> dict[str, int]:
    """Raises UserError where `prepare` has not come to its end."""
    if not (folder / PORTS).is_file():
        raise UserError(f"{folder} is not prepared: run prepare, after removing what there is.")
    ports: dict[str, int] = yaml.safe_load((folder / PORTS).read_text())
    return ports


def connected(server: Path, control_port: int) -> int:
    """How many nodes the SuperLink sees."""
    with tempfile.TemporaryDirectory() as home:
        write_connection(Path(home), f"127.0.0.1:{control_port}", server / "certificates" / "ca.crt")
        listed = flwr(Path(home), "supernode", "list", CONNECTION)["nodes"]
    return sum(node["status"] == "online" for node in listed)


def deployment(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "asr_fed.deployment", *map(str, arguments)]


def run(*arguments: object) -> None:
    """A command of asr_fed.deployment, to its end."""
    command = deployment(*arguments)
    print(f"$ {show(command)}", flush=True)
    if subprocess.run(command).returncode:
        raise UserError("It did not work out (see above).")


def start_process(place: Path, *arguments: object) -> None:
    """A command of asr_fed.deployment, in the background: its id in `place`/pid, what it says in `place`/log."""
    command = deployment(*arguments)
    print(f"$ {show(command)} &", flush=True)
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    (place / "pid").write_text(str(process.pid))


def running(place: Path) -> int | None:
    """The id of the process of `place`; None where it is not there, or its id is another program's by now."""
    if not (place / "pid").is_file():
        return None
    pid = int((place / "pid").read_text())
    found = subprocess.run(["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True).stdout
    return pid if str(place) in found and not found.startswith("Z") else None


def wait_for(started: list[Path], ready: Callable[[], bool]) -> None:
    """Raises UserError, with the end of its log, where one of the processes has ended; or where it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while True:
        for place in started:
            if not running(place):
                raise UserError(f"{place.name} has ended. The end of {place / 'log'}:\n{tail(place / 'log')}")
        if ready():
            return
        if time.monotonic() > deadline:
            logs = ", ".join(str(place / "log") for place in started)
            raise UserError(f"Not all were up after {PATIENCE} s. Their logs: {logs}")
        time.sleep(0.5)


def show(command: list[str]) -> str:
    """For reading and copying: paths as short as they can be from here."""
    here = f"{Path.cwd()}/"
    return " \\\n    ".join(textwrap.wrap(shlex.join(command).replace(here, ""), 110, break_on_hyphens=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/three_silos"), help="holds everything")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    first = commands.add_parser("prepare", help="make the folder")
    first.add_argument("--mixed", action="store_true", help="one silo; the other two clients simulated by one node")
    first.add_argument("--port", type=int, default=8443, help="for nodes")
    first.add_argument("--control-port", type=int, default=8000, help="for train_fed.py")
    commands.add_parser("start", help="start server and nodes in the background")
    commands.add_parser("train", help="train over them").add_argument("overrides", nargs="*", metavar="key=value")
    commands.add_parser("status", help="who runs, who is connected")
    commands.add_parser("stop", help="end them")
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    actions = {
        "prepare": lambda: prepare(folder, chosen.mixed, chosen.port, chosen.control_port),
        "start": lambda: start(folder),
        "train": lambda: train(folder, chosen.overrides),
        "status": lambda: status(folder),
        "stop": lambda: stop(folder),
    }
    return exit_status("three_silos", actions[chosen.command])


if __name__ == "__main__":
    sys.exit(main())
