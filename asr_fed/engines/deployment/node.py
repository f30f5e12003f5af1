"""A node: Flower's SuperNode, which connects to the server, and a resident, which answers the messages."""

import secrets
import socket
import time
from pathlib import Path

from asr_fed.engines.deployment.door import Waiting, fault
from asr_fed.engines.deployment.flower import end_process, start_flower, tail
from asr_fed.engines.deployment.resident import Resident
from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.deployment.supernode_loop import CONNECTED, mend
from asr_fed.engines.deployment.supernode_tasks import SuperNodeTasks
from asr_fed.runs.run_dir import exclusive
from asr_fed.system.errors import PartLost
from asr_fed.system.processes import limit_memory

LOCAL = "127.0.0.1"
PAUSE = 0.2  # seconds between two polls for messages
LOOK = 30.0  # seconds between two looks whether the server is still there, while there is no message
# In a SuperNode's log, where SuperLink or proxy do not let it in.
# Answered with 401, as the proxy answers a key that is not registered, a SuperNode stops itself without a reason.
NOT_ADMITTED = ("Failed to activate SuperNode", "SuperNode terminated gracefully")
RETRY = 10  # seconds until the next try where only the server's minute has to pass
STILL_THERE = (
    "the server believes that this node is there already, as it does for up to a minute after one was killed; if it "
    "stays so, another node runs with this key, or the server's operator has to register it again"
)


def run_node(settings: NodeSettings) -> None:
    """Take part in federations until interrupted. As long as the server does not let it in, it waits and says why.

    Raises UserError if the node cannot start, PartLost if its SuperNode ends for another reason.
    """
    folder = Path(settings.folder)
    if (most := settings.policy.memory_gigabytes) is not None:
        limit_memory(int(most * 1e9))  # also of the workers and the SuperNode, which inherit it
    with exclusive(folder / ".lock", f"Another node is running in {folder}."), Resident(settings, _say) as resident:
        log, waiting, refused = folder / "supernode.log", Waiting(_say), False
        _say(f"node {settings.name}: looking for the server at {settings.superlink}")
        while True:
            while (reason := fault(settings)) is not None:
                refused = False
                time.sleep(waiting.because(reason))
            if refused:
                _say(f"waiting: {STILL_THERE}. Trying again in {RETRY} s")
                time.sleep(RETRY)
            log.touch(mode=0o600)
            begin = log.stat().st_size
            code = _run_supernode(settings, resident, log, begin, waiting)
            said = log.read_text(encoding="utf-8", errors="replace")[begin:]
            if not any(words in said for words in NOT_ADMITTED):
                raise PartLost(f"The SuperNode ended (exit code {code}). The end of {log}:\n{tail(log)}")
            refused = True


def _run_supernode(settings: NodeSettings, resident: Resident, log: Path, begin: int, waiting: Waiting) -> int | None:
    """Run a SuperNode and let `resident` answer its messages; returns its exit code when it ends.

    `begin` is where its words in `log` begin.
    """
    folder, secret, port = Path(settings.folder), secrets.token_bytes(32), _free_port()
    arguments = _arguments(settings, _write_secret(folder, secret), port)
    supernode = start_flower("flower-supernode", arguments, home=folder / "home", log=log, before=mend)
    connected, look = False, 0.0
    try:
        tasks = SuperNodeTasks(f"{LOCAL}:{port}", secret)
        while supernode.is_alive():
            if not connected and CONNECTED.encode() in _from(log, begin):
                connected, look = True, time.monotonic() + LOOK
                waiting.over()
                _say(f"connected to {settings.superlink} as {settings.name}")
            try:
                task = tasks.next()
                if task is not None:
                    with task.signs_of_life():
                        reply = resident.answer(task.message)
                    task.answer(reply)
                    continue
            except ConnectionError:  # it is starting, or ending
                supernode.join(1)
            if connected and time.monotonic() > look:
                look = time.monotonic() + _look(settings, waiting)
            time.sleep(PAUSE)
    finally:
        end_process(supernode)
    return supernode.exitcode


def _look(settings: NodeSettings, waiting: Waiting) -> float:
    """See whether the server is there, and say it if that has changed; returns the seconds until the next look.

    The SuperNode looks for itself; this is for the node's owner.
    """
    if (reason := fault(settings)) is not None:
        return waiting.because(reason)
    if waiting.begun:
        waiting.over()
        _say(f"connected to {settings.superlink} again")
    return LOOK


def _from(log: Path, begin: int) -> bytes:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read()


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
