"""The commands of a deployment: `python -m asr_fed.deployment --help`."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from asr_fed.data.identity import identity
from asr_fed.system.exit_status import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Exits with 1 where `check` finds a fault, 2 where the user has something to correct, 130 after Ctrl-C, 143 after
    SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m asr_fed.deployment", description="Nodes and server of a federation."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser("certificates", help="server: make a CA and the server's certificate")
    make.add_argument("folder", type=Path)
    make.add_argument("--host", nargs="*", default=[], help="names and addresses under which nodes reach the server")

    renew = commands.add_parser("renew", help="server: a new certificate of the same CA; nodes have nothing to do")
    renew.add_argument("folder", type=Path)
    renew.add_argument("--host", nargs="*", default=[], help="as for certificates")

    key = commands.add_parser("key", help="node: make its key pair, FILE and FILE.pub")
    key.add_argument("file", type=Path)

    superlink = commands.add_parser("superlink", help="server: run the SuperLink until interrupted")
    superlink.add_argument("folder", type=Path, help="what it keeps: database and logs")
    superlink.add_argument("--certificates", type=Path, required=True)
    superlink.add_argument("--host", default="0.0.0.0", help="address to listen at for nodes")
    superlink.add_argument("--port", type=int, default=8443, help="port for nodes")
    superlink.add_argument(
        "--control-port", type=int, default=8000, help="port of this machine alone, for train_fed.py"
    )

    register = _of_operator(commands, "register", "admit a node by its public key, or change its limits")
    register.add_argument("key", type=Path, help="the node's FILE.pub")
    register.add_argument("name", type=identity)
    register.add_argument("--clients", type=int, default=1, help="how many it may report at most (%(default)s)")
    register.add_argument("--utterances", type=int, default=100_000, help="and to train on (%(default)s)")
    register.add_argument("--simulated", action="store_true", help="a virtual node: its clients are simulated ones")
    unregister = _of_operator(commands, "unregister", "remove a node: its key opens nothing from now on")
    unregister.add_argument("name", type=identity, help="or, of a node without a name, the number that nodes shows")
    _of_operator(commands, "nodes", "who is registered, and who is connected")
    _of_operator(commands, "status", "the runs that have not ended, and the nodes")
    _of_operator(commands, "stop", "stop the runs that have not ended; they can be resumed")

    node = commands.add_parser("node", help="node: take part until interrupted")
    node.add_argument("settings", type=Path, help="NODE.yaml")

    check = commands.add_parser("check", help="node: try all that it needs, from the server's name to its disk")
    check.add_argument("settings", type=Path, help="NODE.yaml")

    approve = commands.add_parser("approve", help="node: see in words what a server wants, and approve it")
    approve.add_argument("settings", type=Path, help="NODE.yaml")
    approve.add_argument("--yes", action="store_true", help="do not ask")
    journal = commands.add_parser("journal", help="node: all that was asked and sent; checks that nothing was changed")
    journal.add_argument("settings", type=Path, help="NODE.yaml")

    chosen = parser.parse_args(arguments)
    os.umask(0o077)  # speech, transcripts, keys and databases: for their owner alone
    return exit_status("asr_fed.deployment", lambda: _run(chosen))


def _of_operator(commands: Any, name: str, does: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=f"server: {does}")
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--control-port", type=int, default=8000)
    return parser


def _run(chosen: argparse.Namespace) -> int:
    # Imported as needed: torch and Flower take seconds.
    match chosen.command:
        case "certificates":
            from asr_fed.engines.deployment.credentials import ca_folder, make_certificates
            from asr_fed.wire.members import write_members

            make_certificates(chosen.folder, chosen.host)
            write_members(chosen.folder, {})  # without a list, the proxy would let any key through until the first one
            print(f"{chosen.folder}: ca.crt is for the nodes, server.* stay here.")
            print(f"{ca_folder(chosen.folder) / 'ca.key'} is kept offline.")
        case "key":
            from asr_fed.engines.deployment.credentials import make_node_key

            print(f"{make_node_key(chosen.file)} is for the server's operator; {chosen.file} stays here.")
        case "superlink":
            from asr_fed.engines.deployment.superlink import SuperLink, serve

            serve(SuperLink(chosen.folder, chosen.certificates, chosen.host, chosen.port, chosen.control_port))
        case "renew":
            from asr_fed.engines.deployment.credentials import renew_certificate

            renew_certificate(chosen.folder, chosen.host)
            print(f"{chosen.folder}: server.crt and server.key are new. Start the SuperLink again; nodes do nothing.")
        case "register" | "unregister" | "nodes" | "status" | "stop":
            _operate(chosen)
        case "approve":
            _approve(chosen.settings, ask=not chosen.yes)
        case "journal":
            from asr_fed.engines.deployment.journal import JOURNAL, Journal
            from asr_fed.engines.deployment.settings import read_settings

            for entry in Journal(Path(read_settings(chosen.settings).folder) / JOURNAL).entries():
                print(json.dumps(entry))
        case "node":
            from asr_fed.engines.deployment.node import run_node
            from asr_fed.engines.deployment.settings import read_settings

            run_node(read_settings(chosen.settings))
        case "check":
            return _check(chosen.settings)
    return 0


def _operate(chosen: argparse.Namespace) -> None:
    from asr_fed.engines.deployment.operate import Operator

    operator = Operator(f"127.0.0.1:{chosen.control_port}", chosen.certificates)
    match chosen.command:
        case "register":
            new = operator.register(chosen.key, chosen.name, chosen.clients, chosen.utterances, chosen.simulated)
            print(
                f"{chosen.name} {'is admitted' if new else 'had been admitted before: name and limits are now these'}."
            )
        case "unregister":
            operator.unregister(chosen.name)
            print(f"{chosen.name} is removed.")
        case "stop":
            stopped = operator.stop()
            print(f"Stopped: {', '.join(stopped)}." if stopped else "No run was under way.")
        case _:
            if chosen.command == "status":
                print("\n".join(operator.runs() or ["no run is under way"]))
            print("\n".join(operator.nodes() or ["no node is registered"]))


def _check(path: Path) -> int:
    """1 where something is not as it has to be."""
    from rich.console import Console
    from rich.text import Text

    from asr_fed.engines.deployment.node_check import check_node
    from asr_fed.wire.records import readable

    console, faults = Console(highlight=False, markup=False, emoji=False, soft_wrap=True), 0
    for found in check_node(path):
        word, style = {True: ("ok", "green"), False: ("FAULT", "bold red"), None: ("-", "dim")}[found.well]
        console.print(Text.assemble((f"{word:7}", style), f"{found.what:10}{readable(found.told)}"))
        faults += found.well is False
    return 1 if faults else 0


def _approve(path: Path, ask: bool) -> None:
    from asr_fed.engines.deployment.node_experiment import read_shared
    from asr_fed.engines.deployment.policy import PENDING, approve, describe_setup, pending
    from asr_fed.engines.deployment.settings import read_settings

    settings = read_settings(path)
    folder = Path(settings.folder)
    waiting = pending(folder)
    if not waiting:
        print("No setup waits for approval.")
    for sha256 in waiting:
        text = (folder / PENDING / f"{sha256}.yaml").read_text(encoding="utf-8")
        print(f"Setup {sha256}:\n{describe_setup(read_shared(text, settings, folder / 'experiments' / sha256))}")
        if not ask or input("Approve it? [y/N] ").strip().lower() in ("y", "yes"):
            approve(folder, sha256)
            print("Approved. The server asks again within a minute.")
