"""After the last round: each client fine-tunes a copy of the recogniser where its speech lies.

A copy is measured and dropped. What comes back is how many words each gets wrong, before and after, of speech that its
client held back.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid
from omegaconf import OmegaConf

from asr_fed.config.schema import SEARCH, Config, Decoder
from asr_fed.engines.worker_grid import WorkerGrid
from asr_fed.federation.client_app import TOO_LITTLE
from asr_fed.federation.roster import Roster, join
from asr_fed.federation.sampling import place
from asr_fed.federation.strategy import AWAY, NO_ANSWER, audio_seconds
from asr_fed.model.state import state_sha256
from asr_fed.reporting.evaluation_files import write_csv
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.run_dir import write_text
from asr_fed.wire.exchange import exchange
from asr_fed.wire.messages import Gained, Hosted, Refused, order_message, read_gains, weights_record

AT_ONCE = 16  # clients of a node in one order, at most: so much is done again after a kill


@dataclass
class Personalisation:
    """What became of each client so far; `of` tells which weights and settings it is about.

    finished: every client that was there has been asked.
    """

    of: str
    gains: dict[str, Gained] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    finished: bool = False


def personalise_clients(
    experiment: Experiment,
    grid: Grid,
    weights: np.ndarray,
    roster: Roster | None = None,
    on_total: Callable[[int], None] = lambda clients: None,
) -> Personalisation:
    """Have every client of the nodes of `grid` personalise `weights` (float32 [state]), once.

    Goes on from checkpoints/personalisation.json where that is about the same weights and settings, and asks those
    again who failed by accident. Leaves personalisation.csv. `on_total` is told how many clients are left.

    Args:
        roster: the nodes, where they have joined; None: they are waited for.

    Raises UserError where too few nodes join.
    """
    path = experiment.checkpoints / "personalisation.json"
    state = _begin(path, _subject(state_sha256(weights), experiment.config))
    if not state.finished or any(reason != TOO_LITTLE for reason in state.failures.values()):
        state.finished, state.failures = False, {}
        roster = roster or join(experiment, grid)
        on_total(len(roster.clients.keys() - state.gains.keys()))
        record = weights_record(weights)
        while True:
            roster.refresh(grid)  # who comes by now is asked too
            left = sorted(roster.clients.keys() - state.gains.keys() - state.failures.keys())
            if not left:
                break
            state.failures |= {client: AWAY for client in left if not roster.hosts(client)}
            gains, failures = _ask(experiment, grid, roster, [c for c in left if c not in state.failures], record)
            state.gains |= gains
            state.failures |= failures
            _save(state, path)
        state.finished = True
        _save(state, path)
    rows = [_row(name, state.gains[name]) for name in sorted(state.gains)]
    write_csv(experiment.run_dir / "personalisation.csv", rows)
    return state


def summarise_gains(experiment: Experiment, weights_sha256: str) -> dict[str, Any] | None:
    """For summary.json: WER in percent of all held-back words together; clients that became better and worse.

    None where the clients have not personalised these weights, with these settings, to the end.
    """
    path = experiment.checkpoints / "personalisation.json"
    state = _begin(path, _subject(weights_sha256, experiment.config))
    if not state.finished:
        return None
    gains = state.gains.values()
    words = sum(gained.words for gained in gains)
    return {
        "part": experiment.config.personalisation.part.name,
        "decoder": experiment.config.evaluation.client_decoder.name,
        "clients": len(gains),
        "words": words,
        "wer_before": 100 * sum(gained.before for gained in gains) / words if words else None,
        "wer_after": 100 * sum(gained.after for gained in gains) / words if words else None,
        "better": sum(gained.after < gained.before for gained in gains),
        "worse": sum(gained.after > gained.before for gained in gains),
        "too_little_speech": sum(reason == TOO_LITTLE for reason in state.failures.values()),
        "failures": {client: reason for client, reason in state.failures.items() if reason != TOO_LITTLE},
    }


def _ask(
    experiment: Experiment, grid: Grid, roster: Roster, clients: Sequence[str], weights: ArrayRecord
) -> tuple[dict[str, Gained], dict[str, str]]:
    """Of the first AT_ONCE clients of each node."""
    config = experiment.config
    hosted = roster.clients
    placed = place(
        clients,
        {client: roster.hosts(client) for client in clients},
        lambda node, client: personal_seconds(hosted[client], config),
    )
    shares = {node: share[:AT_ONCE] for node, share in placed.items()}
    gains, failures, _ = ask_to_personalise(grid, shares, hosted, weights, roster.setup.sha256, config)
    return gains, failures


def ask_to_personalise(
    grid: Grid,
    shares: Mapping[int, Sequence[str]],
    hosted: Mapping[str, Hosted],
    weights: ArrayRecord,
    setup: str,
    config: Config,
    reason_of: Callable[[Message], str] = lambda reply: reply.error.reason or "unknown error",
) -> tuple[dict[str, Gained], dict[str, str], float]:
    """Gains, failures, and the seconds of the busiest node, where `shares` are the clients of each node.

    A round's time limits are for a round's work: they are stretched to the clients' work here, by what `hosted` tells
    of their speech. `reason_of` makes the reason of an error that comes in place of an answer.
    """
    asked = [hosted[client] for share in shares.values() for client in share]
    stretch = max([1.0, *(personal_seconds(client, config) / _work(client, config) for client in asked)])
    timeout = config.federation.round_timeout
    orders = [
        order_message(node, config.federation.rounds, 0.0, share, weights, setup=setup, kind=MessageType.EVALUATE)
        for node, share in shares.items()
    ]
    if isinstance(grid, WorkerGrid):
        grid.stretch = stretch
    # A client had its time in a round, whatever else its node did; here a node may do AT_ONCE of them in a row.
    done = exchange(grid, orders, timeout=None if timeout is None else timeout * stretch * AT_ONCE)
    if isinstance(grid, WorkerGrid):
        grid.give_up(done.unanswered, NO_ANSWER)
        grid.stretch = 1.0
    answered = {reply.metadata.src_node_id: reply for reply in done.replies}
    gains: dict[str, Gained] = {}
    failures: dict[str, str] = {}
    busy = 0.0
    for node, share in shares.items():
        reply = answered.get(node)
        if reply is None or reply.has_error():
            failures |= dict.fromkeys(share, NO_ANSWER if reply is None else reason_of(reply))
            continue
        try:
            gained, failed, timing = read_gains(reply, share)
        except Refused as refused:
            failures |= dict.fromkeys(share, f"refused: {refused}")
            continue
        gains |= gained
        failures |= failed
        busy = max(busy, timing.busy)
    return gains, failures, busy


def personal_seconds(client: Hosted, config: Config) -> float:
    """Seconds of audio that a client's personalisation goes through: training passes and two decodings."""
    return client.train_seconds * config.personalisation.epochs + 2 * client.dev_seconds


def _work(client: Hosted, config: Config) -> float:
    """Seconds of audio of a round; never 0."""
    return max(audio_seconds(client, config.federation), 1e-3)


def _subject(weights_sha256: str, config: Config) -> str:
    """A hash of all that a client's gain depends on and that may differ from one call to the next."""
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
