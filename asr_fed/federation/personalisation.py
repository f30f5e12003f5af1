"""After the last round: each client fine-tunes a copy of the recogniser where its speech lies.

The copies stay there. What comes back is how many words each gets wrong, before and after, of speech that its client
held back.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MessageType
from flwr.serverapp import Grid
from omegaconf import OmegaConf

from asr_fed.config.schema import PersonalisationConfig
from asr_fed.evaluation.files import write_csv
from asr_fed.experiment import Experiment
from asr_fed.federation.exchange import exchange
from asr_fed.federation.messages import Gained, Hosted, Refused, order_message, read_gains, weights_record
from asr_fed.federation.roster import Roster, join
from asr_fed.federation.sampling import place
from asr_fed.federation.strategy import AWAY, NO_ANSWER
from asr_fed.federation.worker_grid import WorkerGrid
from asr_fed.run_dir import write_text
from asr_fed.training.personalise import learning_rate
from asr_fed.training.state import state_sha256

AT_ONCE = 8  # clients of a node in one order: so much is done again after a kill
ORDERED = "personalisation"  # in place of a round, in tickets


@dataclass
class Personalisation:
    """What became of each client so far; `of` tells which weights and settings it is about."""

    of: str
    gains: dict[str, Gained] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    done: bool = False


def personalise_clients(
    experiment: Experiment, grid: Grid, weights: np.ndarray, on_total: Callable[[int], None] = lambda clients: None
) -> Personalisation:
    """Have every client of the nodes of `grid` personalise `weights` (float32 [state]), once.

    Goes on from checkpoints/personalisation.json where that is about the same weights and settings, and leaves
    personalisation.csv. `on_total` is told how many clients are left. A client that fails is named and left out.

    Raises UserError where too few nodes join.
    """
    config = experiment.config
    path = experiment.checkpoints / "personalisation.json"
    state = _begin(path, weights, config.personalisation)
    if not state.done:
        roster = join(experiment, grid)
        left = sorted(roster.clients.keys() - state.gains.keys() - state.failures.keys())
        on_total(len(left))
        at_once = AT_ONCE * max(1, len(roster.online))
        for first in range(0, len(left), at_once):
            roster.refresh(grid)
            gains, failures = _ask(experiment, grid, roster, left[first : first + at_once], weights)
            state.gains |= gains
            state.failures |= failures
            _save(state, path)
        state.done = True
        _save(state, path)
    write_csv(
        experiment.run_dir / "personalisation.csv", [_row(name, state.gains[name]) for name in sorted(state.gains)]
    )
    return state


def summarise_gains(experiment: Experiment) -> dict[str, Any]:
    """For summary.json: WER in percent of all held-back words together; clients that became better and worse."""
    state = _load(experiment.checkpoints / "personalisation.json")
    gains = state.gains.values()
    words = max(1, sum(gained.words for gained in gains))
    return {
        "part": experiment.config.personalisation.part.name,
        "clients": len(gains),
        "words": sum(gained.words for gained in gains),
        "wer_before": 100 * sum(gained.before for gained in gains) / words,
        "wer_after": 100 * sum(gained.after for gained in gains) / words,
        "better": sum(gained.after < gained.before for gained in gains),
        "worse": sum(gained.after > gained.before for gained in gains),
        "failures": state.failures,
    }


def describe_gains(summary: Mapping[str, Any]) -> str:
    """`summarise_gains` in a line."""
    failed = f", {len(summary['failures'])} failed" if summary["failures"] else ""
    return (
        f"Personalised ({summary['part']}): WER on speech that clients held back {summary['wer_before']:.2f} before, "
        f"{summary['wer_after']:.2f} after; better for {summary['better']} of {summary['clients']} clients, worse for "
        f"{summary['worse']}{failed}."
    )


def _ask(
    experiment: Experiment, grid: Grid, roster: Roster, clients: Sequence[str], weights: np.ndarray
) -> tuple[dict[str, Gained], dict[str, str]]:
    settings = experiment.config.personalisation
    hosts = {client: roster.hosts(client) for client in clients}
    failures = {client: AWAY for client in clients if not hosts[client]}
    shares = place(
        [client for client in clients if hosts[client]],
        hosts,
        lambda node, client: personal_seconds(roster.clients[client], settings),
    )
    gains, failed, _ = ask_to_personalise(
        grid,
        shares,
        weights_record(weights),
        server_round=experiment.config.federation.rounds,
        lr=learning_rate(settings),
        setup=roster.setup.sha256,
        timeout=experiment.config.federation.round_timeout,
    )
    return gains, failures | failed


def ask_to_personalise(
    grid: Grid,
    shares: Mapping[int, Sequence[str]],
    weights: ArrayRecord,
    *,
    server_round: int,
    lr: float,
    setup: str,
    timeout: float | None,
) -> tuple[dict[str, Gained], dict[str, str], float]:
    """Gains, failures, and the seconds of the busiest node, where `shares` are the clients of each node."""
    orders = [
        order_message(node, server_round, lr, share, weights, ticket=ORDERED, setup=setup, kind=MessageType.EVALUATE)
        for node, share in shares.items()
    ]
    asked = exchange(grid, orders, timeout=timeout)
    if isinstance(grid, WorkerGrid):
        grid.give_up(asked.unanswered, NO_ANSWER)
    answered = {reply.metadata.src_node_id: reply for reply in asked.replies}
    gains: dict[str, Gained] = {}
    failures: dict[str, str] = {}
    busy = 0.0
    for node, share in shares.items():
        reply = answered.get(node)
        if reply is None or reply.has_error():
            reason = NO_ANSWER if reply is None else reply.error.reason or "unknown error"
            failures |= dict.fromkeys(share, reason)
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


def personal_seconds(client: Hosted, settings: PersonalisationConfig) -> float:
    """Seconds of audio that a client's personalisation goes through: training passes and two decodings."""
    return client.train_seconds * settings.epochs + 2 * client.dev_seconds


def _begin(path: Path, weights: np.ndarray, settings: PersonalisationConfig) -> Personalisation:
    text = state_sha256(weights) + OmegaConf.to_yaml(OmegaConf.structured(settings))
    of = hashlib.sha256(text.encode()).hexdigest()
    if path.is_file() and (state := _load(path)).of == of:
        return state
    return Personalisation(of)


def _load(path: Path) -> Personalisation:
    content = json.loads(path.read_text(encoding="utf-8"))
    return Personalisation(**{**content, "gains": {name: Gained(**own) for name, own in content["gains"].items()}})


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
