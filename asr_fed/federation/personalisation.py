"""After the last round: each client fine-tunes its own copy of the recogniser, where its speech is stored.

A copy is measured and dropped. The client returns the number of word errors before and after, on speech that it held
back.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, MessageType
from omegaconf import OmegaConf
from torch import nn

from asr_fed.config.schema import SEARCH, Config, Decoder
from asr_fed.federation.client_app import TOO_LITTLE
from asr_fed.federation.roster import Roster, join
from asr_fed.federation.round import assign, audio_seconds
from asr_fed.model.state import state_sha256
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.summary import GainsSummary
from asr_fed.system.files import write_csv, write_text
from asr_fed.wire.ask import AWAY, Asked, Assignment, ask
from asr_fed.wire.hosts import Hosts
from asr_fed.wire.messages import ClientSize, Gained, Gains, Order
from asr_fed.wire.rounds import read_gains

AT_ONCE = 16  # most clients of a node in one order: after a kill this much is done again


@dataclass
class Personalisation:
    """The result of each client so far; `of` identifies the weights and settings.

    finished: every client that was present has been asked.
    """

    of: str
    gains: dict[str, Gained] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    finished: bool = False


def personalise_clients(
    experiment: Experiment,
    hosts: Hosts,
    weights: np.ndarray,
    roster: Roster | None = None,
    on_total: Callable[[int], None] = lambda clients: None,
    model: nn.Module | None = None,
) -> Personalisation:
    """Have every client of the nodes personalise `weights` (float32 [state]), once.

    Continues from checkpoints/personalisation.json if that has the same weights and settings, and asks clients again
    that failed by accident. Writes personalisation.csv. `on_total` is called with the number of clients that are left.

    Args:
        roster: the nodes that have joined; None: wait for them.
        model: of the experiment; it may have frozen parts.

    Raises UserError where too few nodes join.
    """
    path = experiment.checkpoints / "personalisation.json"
    state = _begin(path, _subject(state_sha256(weights), experiment.config))
    if not state.finished or any(reason != TOO_LITTLE for reason in state.failures.values()):
        state.finished, state.failures = False, {}
        roster = roster or join(experiment, hosts, model)
        on_total(len(roster.clients.keys() - state.gains.keys()))
        while True:
            roster.refresh(hosts)  # nodes that have joined since are asked too
            left = sorted(roster.clients.keys() - state.gains.keys() - state.failures.keys())
            if not left:
                break
            state.failures |= {client: AWAY for client in left if not roster.hosts(client)}
            there = [client for client in left if client not in state.failures]
            asked = ask_to_personalise(
                hosts,
                _assign_some(there, roster, experiment.config),
                roster.clients,
                Order(
                    experiment.config.federation.rounds,
                    0.0,
                    (),
                    weights,
                    ticket=f"personalise {left[0]}",
                    setup=roster.setup.sha256,
                ),
                experiment.config,
            )
            for answer in asked.answers.values():
                state.gains |= answer.gained
            state.failures |= asked.failures
            _save(state, path)
        state.finished = True
        _save(state, path)
    rows = [_row(name, state.gains[name]) for name in sorted(state.gains)]
    write_csv(experiment.run_dir / "personalisation.csv", rows)
    return state


def summarise_gains(experiment: Experiment, weights_sha256: str) -> GainsSummary | None:
    """For summary.json: the WER in percent over all held-back words, and how many clients became better or worse.

    None if personalisation with these weights and settings has not finished.
    """
    path = experiment.checkpoints / "personalisation.json"
    state = _begin(path, _subject(weights_sha256, experiment.config))
    if not state.finished:
        return None
    gains = state.gains.values()
    words = sum(gained.words for gained in gains)
    return GainsSummary(
        part=experiment.config.personalisation.part.name,
        decoder=experiment.config.evaluation.client_decoder.name,
        clients=len(gains),
        words=words,
        wer_before=100 * sum(gained.before for gained in gains) / words if words else None,
        wer_after=100 * sum(gained.after for gained in gains) / words if words else None,
        better=sum(gained.after < gained.before for gained in gains),
        worse=sum(gained.after > gained.before for gained in gains),
        too_little_speech=sum(reason == TOO_LITTLE for reason in state.failures.values()),
        failures={client: reason for client, reason in state.failures.items() if reason != TOO_LITTLE},
    )


def _assign_some(clients: Sequence[str], roster: Roster, config: Config) -> list[Assignment]:
    """The first AT_ONCE clients of each node."""
    hosts = {client: roster.hosts(client) for client in clients}
    placed = assign(clients, hosts, lambda node, client: personal_seconds(roster.clients[client], config))
    return [replace(each, clients=each.clients[:AT_ONCE]) for each in placed]


def ask_to_personalise(
    hosts: Hosts,
    assignments: Sequence[Assignment],
    sizes: Mapping[str, ClientSize],
    order: Order,
    config: Config,
    reason_of: Callable[[Message], str] = lambda reply: reply.error.reason or "unknown error",
) -> Asked[Gains]:
    """What the assigned clients gained.

    Time limits are set for the work of a round. They are extended here to the work of personalisation, which depends on
    the amounts of speech in `sizes`. `reason_of` turns an error that comes in place of an answer into a reason.
    """
    clients = [sizes[name] for each in assignments for name in each.clients]
    stretch = max([1.0, *(personal_seconds(client, config) / _work(client, config) for client in clients)])
    timeout = config.federation.round_timeout
    return ask(
        hosts,
        order,
        assignments,
        read_gains,
        kind=MessageType.EVALUATE,
        # `round_timeout` is for a round; here a node does up to AT_ONCE clients, each of whom takes longer.
        timeout=None if timeout is None else timeout * stretch * AT_ONCE,
        patience=stretch,
        reason_of=reason_of,
    )


def personal_seconds(client: ClientSize, config: Config) -> float:
    """Seconds of audio that a client's personalisation processes: training passes and two decodings."""
    return client.train_seconds * config.personalisation.epochs + 2 * client.dev_seconds


def _work(client: ClientSize, config: Config) -> float:
    """Seconds of audio of a round; never 0."""
    return max(audio_seconds(client, config.federation), 1e-3)


def _subject(weights_sha256: str, config: Config) -> str:
    """A hash of everything that a client's gain depends on and that may differ between calls."""
    decoder = config.evaluation.client_decoder
    search = {name: value for name, value in vars(config.evaluation).items() if name.startswith(SEARCH)}
    beam = search if decoder is Decoder.beam else {}
    settings = OmegaConf.to_yaml(OmegaConf.structured(config.personalisation))
    return hashlib.sha256(f"{weights_sha256} {decoder.name} {beam} {settings}".encode()).hexdigest()


def _begin(path: Path, of: str) -> Personalisation:
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["of"] == of:
            gains = {name: Gained(**own) for name, own in content["gains"].items()}
            return Personalisation(**{**content, "gains": gains})
    return Personalisation(of)


def _save(state: Personalisation, path: Path) -> None:
    write_text(path, json.dumps(asdict(state), indent=1) + "\n")


def _row(client: str, gained: Gained) -> dict[str, Any]:
    words = max(1, gained.words)
    return {
        "client": client,
        "words": gained.words,
        "errors_before": gained.before,
        "errors_after": gained.after,
        "wer_before": f"{100 * gained.before / words:.2f}",
        "wer_after": f"{100 * gained.after / words:.2f}",
    }
