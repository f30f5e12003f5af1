"""The server's side: Flower's SuperLink behind a proxy, and the registration of nodes."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx

from asr_fed.engines.deployment.credentials import ca_folder, check_private
from asr_fed.engines.deployment.flower import end_process, start_flower, tail
from asr_fed.engines.deployment.proxy import run_proxy
from asr_fed.engines.deployment.visitors import Visitors
from asr_fed.runs.run_dir import exclusive
from asr_fed.system.errors import PartLost, UserError

LOCAL = "127.0.0.1"
PATIENCE = 180  # seconds for a SuperLink to start: it takes a few on an idle machine, a minute on a busy one


@dataclass(frozen=True)
class SuperLink:
    """Settings of a SuperLink.

    folder: for its database, which keeps its nodes across restarts, and its logs.
    certificates: ca.crt, server.crt and server.key, as `make_certificates` writes them.
    host, port: where nodes reach it.
    control_port: on this machine only, for `engine.address=127.0.0.1:PORT` and for registering nodes.
    """

    folder: Path
    certificates: Path
    host: str = "0.0.0.0"
    port: int = 8443
    control_port: int = 8000


@contextmanager
def running(settings: SuperLink) -> Iterator[list[BaseProcess]]:
    """A SuperLink that is ready when the context begins and ends with it; yields its processes.

    Raises UserError where it cannot start; PartLost where that may be otherwise at the next try.
    """
    folder = settings.folder.absolute()
    certificates = settings.certificates.absolute()
    for name in ("ca.crt", "server.crt", "server.key"):
        if not (certificates / name).is_file():
            raise UserError(f"{certificates} has no {name}. Make it with: python -m asr_fed.deployment certificates")
    check_private(certificates / "server.key")
    if (certificates / "ca.key").exists():
        apart = ca_folder(certificates)
        raise UserError(
            f"{certificates} holds ca.key, with which whoever gets in here can pose as the server for years. Move it: "
            f"mkdir -p -m 700 {apart} && mv {certificates / 'ca.key'} {apart}/, and best of all off this machine."
        )
    with exclusive(folder / ".lock", f"Another SuperLink is running in {folder}."):
        _check_free(settings.host, settings.port)
        _check_free(LOCAL, settings.control_port)
        log, proxy_log = folder / "superlink.log", folder / "proxy.log"
        arguments = [
            *("--host", LOCAL, "--port", str(settings.control_port)),
            *("--ssl-ca-certfile", str(certificates / "ca.crt")),
            *("--ssl-certfile", str(certificates / "server.crt")),
            *("--ssl-keyfile", str(certificates / "server.key")),
            *("--database", str(folder / "state.db")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]
        superlink = start_flower("flower-superlink", arguments, home=folder / "home", log=log)
        proxy = get_context("spawn").Process(
            target=run_proxy,
            args=(settings.host, settings.port, settings.control_port, certificates, proxy_log),
            name="proxy",
        )
        proxy.start()
        try:
            _wait_until_ready(settings, superlink, log)
            _wait_until_open(settings, proxy, proxy_log)
            yield [superlink, proxy]
        finally:
            end_process(proxy)
            end_process(superlink)


def serve(settings: SuperLink) -> None:
    """Run a SuperLink until it is interrupted. Raises UserError where it cannot start, PartLost where it, or its proxy,
    ends by itself."""
    with running(settings) as processes:
        print(
            f"SuperLink: nodes come in at port {settings.port}, "
            f"train_fed.py uses engine.address={LOCAL}:{settings.control_port}",
            flush=True,
        )
        visitors = Visitors(settings.folder.absolute() / "access.jsonl")
        while all(process.is_alive() for process in processes):
            for text in visitors.news():
                print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
            time.sleep(0.5)
        dead = next(process for process in processes if not process.is_alive())
        log = settings.folder / ("proxy.log" if dead.name == "proxy" else "superlink.log")
        raise PartLost(f"{dead.name} ended by itself (exit code {dead.exitcode}). The end of {log}:\n{tail(log)}")


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"Nothing can listen at {host}:{port}: {error.strerror}. Choose another port.") from error


def _wait_until_ready(settings: SuperLink, process: BaseProcess, log: Path) -> None:
    context = ssl.create_default_context(cafile=str(settings.certificates / "ca.crt"))
    deadline = time.monotonic() + PATIENCE
    with httpx.Client(verify=context, timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline:
            _check_alive(process, log)
            try:
                if client.get(f"https://{LOCAL}:{settings.control_port}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
    raise PartLost(f"The SuperLink did not start within {PATIENCE} s. The end of {log}:\n{tail(log)}")


def _wait_until_open(settings: SuperLink, process: BaseProcess, log: Path) -> None:
    here = {"0.0.0.0": LOCAL, "::": "::1"}.get(settings.host, settings.host)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        _check_alive(process, log)
        try:
            socket.create_connection((here, settings.port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise PartLost(f"The SuperLink's proxy did not open within {PATIENCE} s. The end of {log}:\n{tail(log)}")


def _check_alive(process: BaseProcess, log: Path) -> None:
    if not process.is_alive():
        raise PartLost(
            f"{process.name} ended at its start (exit code {process.exitcode}). The end of {log}:\n{tail(log)}"
        )
