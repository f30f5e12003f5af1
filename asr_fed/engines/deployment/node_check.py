"""Everything that a node needs before it can take part, tried one after the other: `asr_fed.deployment check`."""

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from asr_fed.data.manifest import Utterance, hours, read_manifest
from asr_fed.data.partition_files import read_partition
from asr_fed.engines.deployment.credentials import check_private
from asr_fed.engines.deployment.door import Finding, knock
from asr_fed.engines.deployment.policy import check_disk, pending
from asr_fed.engines.deployment.settings import Clients, NodeSettings, read_settings
from asr_fed.system.errors import UserError
from asr_fed.system.files import make_folder

DOOR = ("name", "port", "TLS", "clock", "key")  # as `knock` tries them
FEATURE_BYTES = 16_000  # of a second of speech: 80 numbers of 2 bytes, 100 times
SPEEDS = 3  # at which recipes of ours keep features


def check_node(path: Path) -> Iterator[Finding]:
    """NODE.yaml, then what it names. What depends on something that has failed is not tried."""
    try:
        settings = read_settings(path, files=False)
    except UserError as error:
        yield Finding("settings", False, str(error))
        return
    yield Finding("settings", True, f"{path} is that of the node {settings.name}")
    yield from _door(settings)
    speech = _speech(settings)
    yield speech[0]
    yield _disk(settings, speech[1])
    yield _policy(settings, speech[1])


def _door(settings: NodeSettings) -> Iterator[Finding]:
    for what, file in (("TLS", settings.certificate), ("key", settings.key)):
        if file is not None and not Path(file).is_file():
            yield Finding(what, False, f"there is no {file}")
            return
    if settings.key is not None:
        try:
            check_private(Path(settings.key))
        except UserError as error:
            yield Finding("key", False, str(error))
            return
    tried = []
    for found in knock(settings):
        tried.append(found.what)
        yield found
    wanted = DOOR if settings.certificate is not None else DOOR[:3]
    yield from (Finding(what, None, "not tried") for what in wanted if what not in tried)


def _speech(settings: NodeSettings) -> tuple[Finding, list[Utterance]]:
    """The training speech of the node; none where it cannot be read."""
    what = "manifest" if settings.own else "partition"
    try:
        if settings.partition is not None:
            if not (Path(settings.partition) / "partition.csv").is_file():
                raise UserError(f"There is no partition.csv in {settings.partition}.")
            speech = [u for client in read_partition(settings.partition).clients for u in client.utterances]
        else:
            utterances = read_manifest(str(settings.manifest), untranscribed=True)  # the experiment says if it may be
            speech = [u for u in utterances if u.split.lower() not in ("dev", "test")]
    except (UserError, OSError) as error:
        return Finding(what, False, str(error)), []
    if not speech:
        return Finding(what, False, "there is no speech to train on"), []
    unreadable = [utterance.wav for utterance in speech if not os.access(utterance.wav, os.R_OK)]
    if unreadable:
        return Finding(what, False, f"{len(unreadable)} recordings cannot be read, such as {unreadable[0]}"), speech
    speakers = len({utterance.speaker for utterance in speech})
    silent = sum(not utterance.text for utterance in speech)
    untold = f", {silent} utterances without transcript" if silent else ""
    return Finding(what, True, f"{len(speech)} utterances, {speakers} speakers, {hours(speech):.2f} h{untold}"), speech


def _disk(settings: NodeSettings, speech: list[Utterance]) -> Finding:
    folder = Path(settings.folder)
    try:
        make_folder(folder)
        check_disk(settings.policy, folder)
        free = shutil.disk_usage(folder).free
    except (UserError, OSError) as error:
        return Finding("disk", False, str(error))
    needed = SPEEDS * FEATURE_BYTES * math.fsum(utterance.duration for utterance in speech)
    told = f"{folder} has room for {free / 1e9:.1f} GB, and features may need {needed / 1e9:.2f} GB"
    return Finding("disk", free > needed, told)


def _policy(settings: NodeSettings, speech: list[Utterance]) -> Finding:
    """Whether the owner's own rules leave anything to train on."""
    policy = settings.policy
    if not settings.trust:
        return Finding("policy", False, "trust is empty: every setup names an algorithm, and so every one is refused")
    waiting = len(pending(Path(settings.folder)))
    todo = f"; {waiting} setup(s) wait for: python -m asr_fed.deployment approve" if waiting else ""
    if not settings.own:
        return Finding("policy", True, f"simulated clients: limits of work and disk alone{todo}")
    if not speech:
        return Finding("policy", None, "not tried")
    clients: dict[str, list[float]] = defaultdict(list)
    for utterance in speech:
        clients["" if settings.clients is Clients.silo else utterance.speaker].append(utterance.duration)
    enough = sum(len(each) >= policy.utterances and math.fsum(each) >= policy.seconds for each in clients.values())
    told = f"{enough} of {len(clients)} client(s) have at least {policy.utterances} utterances and {policy.seconds:g} s"
    if enough < max(1, policy.clients):
        return Finding("policy", False, f"{told}, and an update must be of {policy.clients} at least: no setup will do")
    return Finding("policy", True, f"{told}{todo}")
