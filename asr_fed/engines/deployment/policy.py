"""What the owner of a node lets any server ask for: `policy:` in NODE.yaml.

A server that sets local_steps=1 and batches of one utterance reads that utterance's words off the update. The defaults
refuse this, and leave room for every recipe of ours. Refusals name the rule, never how much speech the node has.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from asr_fed.config.schema import Config, PseudoLabelsConfig
from asr_fed.config.setting import setting
from asr_fed.data.partition import Client
from asr_fed.data.untranscribed import transcribed
from asr_fed.engines.deployment.journal import JOURNAL, Journal
from asr_fed.model.state import StateLayout
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text
from asr_fed.wire.messages import WHOLE, Refused, SharedConfig, Terms

TOO_LITTLE = "the policy of this node's owner: utterances, seconds and steps behind an update would be too few"
PENDING, APPROVED = "pending", "approved"  # folders of setups in a node's folder
# The largest value of each number that decides how much a node computes. Other limits are beside the model's.
MOST = {
    "features.sample_rate": 96_000,
    "features.n_mels": 512,
    "features.n_fft": 8192,
    "features.win_ms": 1000,
    "features.hop_ms": 1000,
    "federation.local_epochs": 100,
    "federation.local_steps": 100_000,
    "federation.batch.max_utterances": 1024,
    "personalisation.epochs": 100,
    "evaluation.beam_size": 100,
}


@dataclass
class Policy:
    """Limits of a node's own speech; simulated clients (`partition:`) have only those of work and disk.

    utterances, seconds: the least training speech of a client behind an update; clients with less take no part.
    steps, batch: the least steps of a client's update, and utterances of a batch.
    batch_seconds: the least audio that a batch must have room for, where a setup limits it.
    clients: how many clients an update must hold at least.
    rounds: the most rounds (and personalisations) of one setup.
    setups_per_day, hours_per_day: the most setups prepared, and hours worked, within 24 hours.
    gigabytes: the most that the node's folder may hold; null: what the disk has.
    memory_gigabytes: the most data that each of the node's processes may have in memory; null: what the machine has.
    approval: setups need `python -m asr_fed.deployment approve NODE.yaml` first.
    """

    utterances: int = setting(20, at_least=1)
    seconds: float = setting(30.0, at_least=0)
    steps: int = setting(5, at_least=1)
    batch: int = setting(2, at_least=1)
    batch_seconds: float = setting(20.0, at_least=0)
    clients: int = setting(1, at_least=1)
    rounds: int = setting(1000, at_least=1)
    setups_per_day: int = setting(10, at_least=1)
    hours_per_day: float = setting(24.0, above=0)
    gigabytes: float | None = setting(None, above=0)
    memory_gigabytes: float | None = setting(None, at_least=1)  # torch and Flower alone take half of one
    approval: bool = field(default=False)


def check_setup(policy: Policy, config: Config, own: bool) -> None:
    """Raises Refused for a setup that asks for too much work, or of own speech for too revealing an update."""
    for key, most in MOST.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if value is not None and value > most:
            raise Refused(f"a setup with {key}={value}, and this node takes at most {most}")
    if not own:
        return
    batch = config.federation.batch
    if batch.max_utterances < policy.batch:
        raise _refused("batch", f"federation.batch.max_utterances={batch.max_utterances}")
    if batch.max_seconds is not None and batch.max_seconds < policy.batch_seconds:
        raise _refused("batch_seconds", f"federation.batch.max_seconds={batch.max_seconds:g}")
    steps = config.federation.local_steps
    if steps is not None and steps < policy.steps:
        raise _refused("steps", f"federation.local_steps={steps}")


def permitted(policy: Policy, config: Config, clients: Sequence[Client]) -> tuple[Client, ...]:
    """The clients whose updates may leave the node. Raises Refused where there are none."""
    # A gradient that an algorithm sums besides tells as much as steps on the same batches.
    gradients = getattr(instantiate(config.algorithm), "gradient_batches", None)
    if gradients is not None and gradients < policy.steps:
        raise _refused("steps", f"algorithm.gradient_batches={gradients}")
    taken = tuple(client for client in clients if is_enough(policy, config, client, gradients))
    if not taken:
        raise Refused(TOO_LITTLE)
    return taken


def is_enough(policy: Policy, config: Config, client: Client, most_steps: int | None = None) -> bool:
    """Whether enough speech and steps are behind what a client sends; of its steps `most_steps` count."""
    settings = config.federation
    # Steps are made on no more than so many utterances, and no fewer than this many steps are made.
    certain, batch = trained_on(client, settings.pseudo_labels), settings.batch.max_utterances
    per_epoch = math.ceil(certain / batch)
    steps = settings.local_steps if settings.local_steps is not None else settings.local_epochs * per_epoch
    steps = steps if most_steps is None else min(steps, most_steps)
    utterances = min(certain, steps * batch)
    seconds = math.fsum(utterance.duration for utterance in client.train)
    seconds *= utterances / max(1, len(client.train))
    return utterances >= policy.utterances and seconds >= policy.seconds and steps >= policy.steps


def trained_on(client: Client, labels: PseudoLabelsConfig) -> int:
    """The fewest utterances behind an update: nobody knows beforehand how many hypotheses will be good enough."""
    spoken = len(transcribed(client.train))
    return len(client.train) if spoken == len(client.train) else max(spoken, labels.min_utterances)


def check_order(policy: Policy, clients: int, rounds: int, worked: float, own: bool) -> None:
    """Raises Refused for an order of too few clients, or beyond the rounds or the day's hours.

    `rounds` of this setup have been worked on before, `worked` seconds of the last 24 hours.
    """
    if own and clients < policy.clients:
        raise _refused("clients", f"an order for {clients} client(s)")
    if rounds >= policy.rounds:
        raise _refused("rounds", f"round {rounds + 1} of this setup")
    check_hours(policy, worked)


def check_terms(policy: Policy, config: Config, terms: Mapping[str, Terms], clients: Sequence[Client]) -> None:
    """Raises Refused for terms that ask own speech for less behind an update than its owner wants.

    `clients` are those of the order.
    """
    if not all(is_enough(policy, config, client, terms.get(client.id, WHOLE).steps) for client in clients):
        raise Refused(TOO_LITTLE)
    weights = {terms.get(client.id, WHOLE).weight for client in clients}
    if policy.clients > 1 and len(weights) > 1:  # of a sum in which the others hardly count, one client is seen
        raise _refused("clients", "terms that let clients count unequally")


def check_hours(policy: Policy, worked: float) -> None:
    """Raises Refused where so many seconds of preparing and training in the last 24 hours are all that there may be."""
    if worked >= 3600 * policy.hours_per_day:
        raise _refused("hours_per_day", "no more work today")


def check_disk(policy: Policy, folder: Path) -> None:
    """Raises UserError where the node's folder holds more than its owner lets it."""
    if policy.gigabytes is None:
        return
    held = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    if held > policy.gigabytes * 1e9:
        raise UserError(
            f"{folder} holds {held / 1e9:.1f} GB, policy.gigabytes is {policy.gigabytes:g}: remove "
            "features/, and what is in experiments/ and clients/ of runs that have ended."
        )


def check_approved(policy: Policy, setup: SharedConfig, folder: Path) -> None:
    """Raises Refused for a setup that the owner has yet to approve, and leaves it where `approve` finds it."""
    if not policy.approval or (folder / APPROVED / f"{setup.sha256}.yaml").is_file():
        return
    (folder / PENDING).mkdir(parents=True, exist_ok=True)
    write_text(folder / PENDING / f"{setup.sha256}.yaml", setup.config)
    raise Refused("the owner of this node has yet to approve this setup")


def pending(folder: Path) -> list[str]:
    """Hashes of the setups that wait for approval."""
    found = sorted((folder / PENDING).glob("*.yaml")) if (folder / PENDING).is_dir() else []
    return [path.stem for path in found if re.fullmatch(r"[0-9a-f]{64}", path.stem)]


def approve(folder: Path, sha256: str) -> None:
    (folder / APPROVED).mkdir(parents=True, exist_ok=True)
    (folder / PENDING / f"{sha256}.yaml").replace(folder / APPROVED / f"{sha256}.yaml")
    Journal(folder / JOURNAL).add("approved", setup=sha256)


def describe_setup(config: Config) -> str:
    """In words: what will be computed, how much of it, and what leaves the node."""
    settings, algorithm = config.federation, str(config.algorithm["_target_"]).rsplit(".", 1)[-1]
    steps = settings.local_steps
    work = f"{steps} step(s)" if steps is not None else f"{settings.local_epochs} pass(es) over each client's speech"
    lines = [
        f"Trains with {algorithm} for up to {settings.rounds} round(s): {work}, {settings.batch.max_utterances} "
        "utterance(s) a step at most, and one decoding of each client's held-back speech.",
        f"Holds back {settings.clients.dev_fraction:.0%} of each client's speech to measure on.",
        "Leaves this node in each round: the sum of its clients' weighted changes of the model, and sums of their word "
        "errors, words, losses, utterances and seconds. No audio, transcript, feature or file name.",
        *_besides(config),
        f"With fewer clients in a round the sums say more of each. The weighting is "
        f"{str(config.weighting['_target_']).rsplit('.', 1)[-1]}.",
    ]
    if config.personalise:
        lines.append("At the end, each client's own word errors before and after it is fine-tuned leave by name.")
    return "\n".join(lines)


def _besides(config: Config) -> list[str]:
    """A line about the further vectors that the algorithm sums; none where there are none."""
    try:
        # Names do not depend on the model, which nobody has built yet.
        summed = instantiate(config.algorithm).summed(StateLayout(("weights",), (1,), 1))
    except Exception as error:  # of settings from outside
        return [f"The algorithm cannot say what it sums besides ({type(error).__name__})."]
    return [f"Besides, the sum of each client's own vectors: {', '.join(summed)}."] if summed else []


def _refused(rule: str, what: str) -> Refused:
    return Refused(f"{what}: the policy of this node's owner (policy.{rule}) does not take it")
