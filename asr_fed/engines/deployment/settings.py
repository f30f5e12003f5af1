"""NODE.yaml: what the owner of a node decides about it."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from omegaconf import MISSING

from asr_fed.config.addresses import is_loopback
from asr_fed.config.trust import TRUST
from asr_fed.data.identity import identity
from asr_fed.data.settings_file import read_settings_file
from asr_fed.engines.deployment.credentials import check_private
from asr_fed.engines.deployment.policy import Policy
from asr_fed.system.errors import UserError

PATHS = ("certificate", "key", "manifest", "partition", "base", "folder")


class Clients(Enum):
    """How a silo's own speech becomes clients."""

    silo = "silo"
    speaker = "speaker"


@dataclass
class NodeSettings:
    """Relative paths start at the folder of NODE.yaml.

    name: of the node; in a silo also of its client, or the beginning of its clients' names.
    superlink: host:port of the server's proxy.
    certificate, key: the server's ca.crt, and the private key of this node. Both null: no TLS, on one machine only.
    manifest: own speech, as one client (`clients: silo`) or one client per speaker (`clients: speaker`: NAME-0001,
        ...).
    partition: instead of a manifest, a folder with partition.csv, whose clients are simulated here.
    folder: what the node keeps: features, settings of experiments, logs.
    base: a recogniser's checkpoint with what experiments keep frozen, from the server's operator.
    workers, threads: number of processes, and torch threads of each; null: by the number of cores.
    trust: prefixes of `_target_` that a config from the server may use; the class's name follows directly.
    policy: what a server may ask for at most.
    """

    name: str = MISSING
    superlink: str = MISSING
    folder: str = MISSING
    certificate: str | None = None
    key: str | None = None
    manifest: str | None = None
    clients: Clients = Clients.silo
    partition: str | None = None
    base: str | None = None
    workers: int | None = None
    threads: int = 1
    device: str = "auto"
    trust: list[str] = field(default_factory=lambda: list(TRUST))
    policy: Policy = field(default_factory=Policy)

    @property
    def own(self) -> bool:
        """Whether the speech is the node's own, not that of simulated clients."""
        return self.partition is None


def read_settings(path: Path, files: bool = True) -> NodeSettings:
    """Raises UserError if the file is missing, has unknown keys or bad values, or (with `files`) names others that are
    missing."""
    settings = read_settings_file(path, NodeSettings)
    for key in PATHS:
        if (value := getattr(settings, key)) is not None:
            setattr(settings, key, str(path.parent.absolute() / Path(value).expanduser()))
    settings.name = identity(settings.name)
    _check_values(settings, path)
    if files:
        _check_files(settings, path)
    return settings


def _check_values(settings: NodeSettings, path: Path) -> None:
    if not re.fullmatch(r"[\w.-]{1,80}", settings.name):
        raise UserError(f"{path}: name={settings.name!r} may hold letters, digits, '-', '_' and '.', at most 80.")
    if (settings.manifest is None) == (settings.partition is None):
        raise UserError(
            f"{path}: give either manifest (a CSV of own speech) or partition (a folder with partition.csv)."
        )
    if (settings.certificate is None) != (settings.key is None):
        raise UserError(f"{path}: certificate and key belong together; leave both out to do without TLS.")
    if not re.fullmatch(r".+:\d+", settings.superlink):
        raise UserError(f"{path}: superlink={settings.superlink!r} should be host:port.")
    if settings.certificate is None and not is_loopback(settings.superlink):
        raise UserError(
            f"{path}: superlink={settings.superlink} is another machine, and what is sent there would be readable on "
            "the way. Give certificate and key (python -m asr_fed.deployment key)."
        )
    if settings.threads < 1 or (settings.workers is not None and settings.workers < 1):
        raise UserError(f"{path}: workers and threads must be at least 1.")


def _check_files(settings: NodeSettings, path: Path) -> None:
    for key in ("certificate", "key", "manifest", "base"):
        value = getattr(settings, key)
        if value is not None and not Path(value).is_file():
            raise UserError(f"{path}: {key}={value}, and there is no such file.")
    if settings.key is not None:
        check_private(Path(settings.key))
    if settings.partition is not None and not (Path(settings.partition) / "partition.csv").is_file():
        raise UserError(f"{path}: partition={settings.partition}, and there is no partition.csv in it.")
