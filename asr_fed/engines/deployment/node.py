"""A node: Flower's SuperNode, which connects to the server, and a resident, which answers the messages."""

import secrets
import socket
import time
from pathlib import Path

from asr_fed.engines.deployment.flower import end_process, start_flower, tail
from asr_fed.engines.deployment.resident import Resident
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.deployment.supernode_loop import mend
from asr_fed.engines.deployment.supernode_tasks import SuperNodeTasks
from asr_fed.runs.run_dir import exclusive
from asr_fed.system.errors import UserError

LOCAL = "127.0.0.1"
PAUSE = 0.2  # seconds between two polls for messages
# In a SuperNode's log, where SuperLink or proxy do not let it in.
# Answered with 401, as the proxy answers a key that is not registered, a SuperNode stops itself without a reason.
NOT_ADMITTED = ("Failed to activate SuperNode", "SuperNode terminated gracefully")
# For up to a minute the server believes that a killed node is still there, and does not admit its successor.
ADMISSION, RETRY = 120, 10  # seconds for which a node tries to be admitted, and between two attempts


def run_node(settings: NodeSettings) -> None:
    """Take part in federations until interrupted.

    Raises UserError if the node cannot start, the server does not admit it, or its SuperNode ends.
    """
    folder = Path(settings.folder)
    with exclusive(folder / ".lock", f"Another node is running in {folder}."), Resident(settings, _say) as resident:
        log, started = folder / "supernode.log", time.monotonic()
        _say(f"node {settings.name}: looking for the server at {settings.superlink}")
        while True:
            begin = log.stat().st_size if log.is_file() else 0
            code = _run_supernode(settings, resident, log)
            said = log.read_text(encoding="utf-8", errors="replace")[begin:]
            if not any(words in said for words in NOT_ADMITTED):
                raise UserError(f"The SuperNode ended (exit code {code}). The end of {log}:\n{tail(log)}")
            if time.monotonic() - started > ADMISSION:
                raise UserError(
                    f"The server at {settings.superlink} does not let this node in. Its operator registers "
                    f"{settings.key}.pub: python -m asr_fed.deployment register."
                )
            _say("not let in: the key is not registered, or this node was running until a moment ago. Trying again")
            time.sleep(RETRY)


def _run_supernode(settings: NodeSettings, resident: Resident, log: Path) -> int | None:
    """Run a SuperNode and let `resident` answer its messages; returns its exit code when it ends."""
    folder, secret, port = Path(settings.folder), secrets.token_bytes(32), _free_port()
    arguments = _arguments(settings, _write_secret(folder, secret), port)
    supernode = start_flower("flower-supernode", arguments, home=folder / "home", log=log, before=mend)
    try:
        tasks = SuperNodeTasks(f"{LOCAL}:{port}", secret)
        while supernode.is_alive():
            try:
                task = tasks.next()
                if task is not None:
                    with task.signs_of_life():
                        reply = resident.answer(task.message)
                    task.answer(reply)
                    continue
            except ConnectionError:  # it is starting, or ending
                supernode.join(1)
            time.sleep(PAUSE)
    finally:
        end_process(supernode)
    return supernode.exitcode


def _arguments(settings: NodeSettings, secret: Path, port: int) -> list[str]:
    line = ["--superlink", settings.superlink]
    if settings.certificate is None:
        line.append("--insecure")
    else:
        line += ["--root-certificates", settings.certificate, "--auth-supernode-private-key", str(settings.key)]
    return [
        *line,
        *("--isolation", "process"),  # this process answers messages, not code that comes with them
        *("--host", LOCAL, "--port", str(port), "--superexec-auth-secret-file", str(secret)),
    ]


def _write_secret(folder: Path, secret: bytes) -> Path:
    path = folder / "secret"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(secret)
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
