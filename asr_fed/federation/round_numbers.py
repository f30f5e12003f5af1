"""The numbers of a round's record: from its sums, and from what was sent and awaited."""

from collections.abc import Sequence
from typing import Any

from asr_fed.aggregation.prior import prior_of
from asr_fed.aggregation.update import ONE, Update
from asr_fed.federation.round import Closed, RoundPlan
from asr_fed.runs.records import NodeRecord
from asr_fed.wire.ask import Asked, Assignment
from asr_fed.wire.messages import Reply


def mean_client_loss(update: Update) -> float:
    return update.totals["loss"] / ONE / update.totals["clients"]


def sums(update: Update) -> dict[str, Any]:
    """Numbers from a round's sums; they do not depend on the order of summation."""
    totals, clients = update.totals, update.totals["clients"]
    squares = totals["weight_squared"] / ONE
    return {
        "clients": clients,
        "weight_sum": update.weight / ONE,
        "effective_clients": (update.weight / ONE) ** 2 / squares if squares else float(clients),
        "loss": mean_client_loss(update),
        "client_wer": 100 * totals["word_errors"] / max(1, totals["words"]),
        "client_wer_deviation": 100 * prior_of(totals).variance ** 0.5,
        "examples": totals["examples"],
        "skipped_steps": totals["skipped_steps"],
        "audio_seconds": totals["audio_milliseconds"] / 1000,
        "train_seconds": totals["train_milliseconds"] / 1000,
        "untranscribed": totals["untranscribed"],
        "pseudo_labelled": totals["pseudo_labelled"],
    }


def exchanged(asked: Sequence[tuple[RoundPlan, Asked[Reply]]], closed: Closed) -> dict[str, Any]:
    """What was sent, who is missing, and how each node spent the round, or each part of it."""
    return {
        "success": closed.success,
        "failures": closed.failures,
        "clipped": closed.clipped,
        "bytes_down": sum(part.bytes_down for _, part in asked),
        "bytes_up": sum(part.bytes_up for _, part in asked),
        "exchange_seconds": sum(part.waited for _, part in asked),
        "workers": [node_record(each, part) for plan, part in asked for each in plan.assignments],
    }


def node_record(each: Assignment, asked: Asked[Reply]) -> NodeRecord:
    timing = asked.timing(each.node)
    return NodeRecord(
        node=each.node,
        clients=len(each.clients),
        predicted_seconds=each.predicted,
        busy_seconds=timing.busy,
        start_seconds=timing.start,
        idle=max(0.0, 1 - timing.busy / asked.waited) if asked.waited else 0.0,
    )
