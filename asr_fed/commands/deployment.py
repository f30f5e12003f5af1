"""The commands of a deployment: `python -m asr_fed.deployment --help`."""

import argparse
from pathlib import Path

from asr_fed.data.identity import identity
from asr_fed.system.exit_status import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Exits with 2 where the user has something to correct, 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m asr_fed.deployment", description="Nodes and server of a federation."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser("certificates", help="server: make a CA and the server's certificate")
    make.add_argument("folder", type=Path)
    make.add_argument("--host", nargs="*", default=[], help="names and addresses under which nodes reach the server")

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

    register = commands.add_parser("register", help="server: admit a node by its public key")
    register.add_argument("key", type=Path, help="the node's FILE.pub")
    register.add_argument("name", type=identity)
    register.add_argument("--certificates", type=Path, required=True)
    register.add_argument("--control-port", type=int, default=8000)

    node = commands.add_parser("node", help="node: take part until interrupted")
    node.add_argument("settings", type=Path, help="NODE.yaml")

    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.deployment", lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> None:
    # Imported as needed: torch and Flower take seconds.
    match chosen.command:
        case "certificates":
            from asr_fed.engines.deployment.credentials import make_certificates

            make_certificates(chosen.folder, chosen.host)
            print(f"{chosen.folder}: ca.crt is for the nodes, server.* stay here, ca.key is kept offline.")
        case "key":
            from asr_fed.engines.deployment.credentials import make_node_key

            print(f"{make_node_key(chosen.file)} is for the server's operator; {chosen.file} stays here.")
        case "superlink":
            from asr_fed.engines.deployment.superlink import SuperLink, serve

            serve(SuperLink(chosen.folder, chosen.certificates, chosen.host, chosen.port, chosen.control_port))
        case "register":
            from asr_fed.engines.deployment.superlink import register

            new = register(f"127.0.0.1:{chosen.control_port}", chosen.certificates, chosen.key, chosen.name)
            print(f"{chosen.name} {'is admitted' if new else 'had been admitted before'}.")
        case "node":
            from asr_fed.engines.deployment.node import run_node
            from asr_fed.engines.deployment.settings import read_settings

            run_node(read_settings(chosen.settings))
