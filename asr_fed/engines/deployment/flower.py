"""Flower's own commands as child processes: quiet, with their own home folder, and ended with this process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from asr_fed.system.errors import UserError
from asr_fed.system.processes import limit_memory, start_worker

CONNECTION = "server"  # name of the SuperLink in config.toml of that home
CALL_SECONDS = 60


def environment(home: Path) -> dict[str, str]:
    """Environment of Flower's commands: no telemetry, no check for updates, its own commands on the PATH, frequent
    polling."""
    scripts = str(Path(sys.executable).absolute().parent)
    return {
        "FLWR_HOME": str(home.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
    }


def start_flower(
    command: str,
    arguments: Sequence[str],
    *,
    home: Path,
    log: Path,
    before: Callable[[], None] | None = None,
) -> BaseProcess:
    """Start a long-running command such as flower-supernode; its output goes to `log`. `before` is called in its
    process.

    It ends with this process, even if that is killed.
    """
    home.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = get_context("spawn").Process(
        target=_run_command, args=(command, list(arguments), environment(home), log, before), name=command
    )
    process.start()
    return process


def _run_command(
    command: str, arguments: list[str], variables: dict[str, str], log: Path, before: Callable[[], None] | None
) -> None:
    start_worker()
    limit_memory()  # of what strangers' bytes become in here, and in the ServerApp that a SuperLink starts
    os.environ.update(variables)
    write_output_to(log)
    if before is not None:
        before()
    sys.argv = [command, *arguments]
    (script,) = entry_points(group="console_scripts", name=command)
    script.load()()


def write_output_to(log: Path) -> None:
    """From now on everything that this process prints is appended to `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)


def end_process(process: BaseProcess, patience: float = 8.0) -> None:
    """Ask it to end, and kill it if it does not."""
    process.terminate()
    process.join(patience)
    if process.is_alive():
        process.kill()
        process.join()


def write_connection(home: Path, address: str, certificate: Path | None) -> None:
    """Write for the command `flwr` under `home` where the SuperLink's Control API is; without a certificate, no TLS."""
    home.mkdir(parents=True, exist_ok=True)
    trust = "insecure = true" if certificate is None else f"root-certificates = {json.dumps(str(certificate))}"
    connection = f"[superlink.{CONNECTION}]\naddress = {json.dumps(address)}\n{trust}\n"
    (home / "config.toml").write_text(f'[superlink]\ndefault = "{CONNECTION}"\n\n{connection}', encoding="utf-8")


def flwr(home: Path, *arguments: str) -> dict[str, Any]:
    """The answer of the command `flwr`. Raises UserError with its output if it fails."""
    try:
        done = subprocess.run(
            [*flwr_command(), *arguments, "--format", "json"],
            env=os.environ | environment(home),
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"flwr {arguments[0]}: no answer from the SuperLink within {CALL_SECONDS} s.") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        answer = {"error-message": f"{done.stdout}{done.stderr}"}
    if not answer.get("success"):
        raise UserError(f"flwr {arguments[0]}: {_one_line(answer.get('error-message', ''))}")
    return answer


def flwr_command() -> list[str]:
    found = shutil.which("flwr", path=environment(Path())["PATH"])
    if found is None:
        raise UserError("The command flwr is missing: install asr_fed again, which installs Flower too.")
    return [found]


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log that are not empty."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _one_line(text: str) -> str:
    return " ".join(
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Using SuperLink")
    )
