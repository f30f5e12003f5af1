"""engine.kind=deployment: submit the rounds of a prepared run to a SuperLink, and follow them.

The SuperLink starts the ServerApp on its own machine. That process opens the same run directory, so both need the same
machine or a shared disk.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from asr_fed.config.schema import EngineConfig
from asr_fed.engines.deployment.flower import CONNECTION, environment, flwr, flwr_command, tail, write_connection
from asr_fed.engines.deployment.server_app import ERROR_FILE, WAITING_FILE
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord, read_history
from asr_fed.system.errors import UserError

PAUSE = 0.3  # seconds between two reads of history.jsonl
CONNECT_SECONDS = 10
PATIENCE = 60  # seconds for which a SuperLink may be unreachable
APP = """\
[project]
name = "asr-fed"
version = "1.0.0"
description = "The rounds of one run of asr_fed"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41.0"]

[tool.flwr.app]
publisher = "asr-fed"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "asr_fed.engines.deployment.server_app:app"
clientapp = "asr_fed.engines.deployment.app:app"

[tool.flwr.app.config]
run-dir = {run_dir}
"""


def federate_in_deployment(
    experiment: Experiment,
    on_round: Callable[[Sequence[RoundRecord]], None] = lambda history: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> None:
    """Run the federation of `experiment` on the SuperLink at `engine.address`.

    `on_round` is called with the history after each round, `on_wait` with who has joined while nodes are waited for.
    The state of the federation is then in the run directory. Stops the run on its SuperLink when interrupted.

    Raises UserError if the SuperLink cannot be reached, or with the error of the ServerApp.
    """
    run_dir = experiment.run_dir.absolute()
    home, app, log = (run_dir / "flower" / name for name in ("home", "app", "server.log"))
    address = _connect(home, experiment.config.engine)
    write_app(app, run_dir)
    for name in (ERROR_FILE, WAITING_FILE):
        (run_dir / name).unlink(missing_ok=True)
    seen, waiting = len(read_history(run_dir)), ""
    try:
        run = flwr(home, "run", str(app), CONNECTION)["run-id"]
    except UserError as error:
        raise UserError(f"The SuperLink at {address} did not take the run: {error} Is it running?") from error

    def report() -> None:
        nonlocal seen, waiting
        if (text := _read(run_dir / WAITING_FILE)) != waiting:
            on_wait(waiting := text)
        history = read_history(run_dir)
        while seen < len(history):
            seen += 1
            on_round(history[:seen])

    try:
        status, details = _follow(home, run, log, report)
    except BaseException:
        _stop(home, run)
        raise
    report()
    (run_dir / WAITING_FILE).unlink(missing_ok=True)
    if status != "finished:completed":
        raise UserError(_reason(run_dir, log, status, details))


def check_superlink(engine: EngineConfig) -> None:
    """Raises UserError where the SuperLink at `engine.address` does not answer."""
    with TemporaryDirectory() as home:
        address = _connect(Path(home), engine)
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
            flwr(Path(home), "ls", CONNECTION)
        except (OSError, ValueError, UserError) as error:
            raise UserError(
                f"The SuperLink at engine.address={address} does not answer: {error} Is it running?"
            ) from error


def write_app(folder: Path, run_dir: Path) -> None:
    """A Flower app without code: its components are already installed on the server and on the nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(APP.format(run_dir=json.dumps(str(run_dir))), encoding="utf-8")
    (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")


def _connect(home: Path, engine: EngineConfig) -> str:
    if engine.address is None:
        raise UserError("engine=deployment needs the SuperLink: engine.address=HOST:PORT of its Control API.")
    certificate = None
    if engine.certificates is not None:
        certificate = Path(engine.certificates).absolute() / "ca.crt"
        if not certificate.is_file():
            raise UserError(f"engine.certificates={engine.certificates} holds no ca.crt.")
    write_connection(home, engine.address, certificate)
    return engine.address


def _follow(home: Path, run: str, log: Path, report: Callable[[], None]) -> tuple[str, str]:
    """Write the run's log to `log` until the run ends; returns its status and Flower's details."""
    with log.open("a") as output:
        while True:
            # Ends with the run. Polling the status would cost a second of a core each time.
            follower = subprocess.Popen(
                [*flwr_command(), "log", run, CONNECTION, "--stream"],
                env=os.environ | environment(home),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to this process only
            )
            try:
                while follower.poll() is None:
                    report()
                    time.sleep(PAUSE)
            finally:
                follower.terminate()
                follower.wait()
            status, details = _status(home, run)
            if status.startswith("finished"):
                return status, details
            time.sleep(1)


def _status(home: Path, run: str) -> tuple[str, str]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            (listed,) = flwr(home, "ls", CONNECTION, "--run-id", run)["runs"]
            return str(listed["status"]), str(listed["status-details"])
        except UserError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"The SuperLink has been away for {PATIENCE} s ({error}). The run can be resumed when it is back."
                ) from error
        time.sleep(2)


def _stop(home: Path, run: str) -> None:
    try:
        flwr(home, "stop", run, CONNECTION)
    except UserError as error:
        if "already finished" not in str(error):
            print(f"The run {run} could not be stopped on the SuperLink: {error}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _reason(run_dir: Path, log: Path, status: str, details: str) -> str:
    if told := _read(run_dir / ERROR_FILE):
        return told
    if status == "finished:stopped":
        return "The run was stopped on its SuperLink (flwr stop). It can be resumed."
    return f"The federation failed on the SuperLink: {details}. The end of {log}:\n{tail(log)}"
