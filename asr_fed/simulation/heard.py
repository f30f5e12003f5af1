"""What the clock says of a whole run: hours, who was late, what was lost, and who is heard."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import median
from typing import Any

from asr_fed.simulation.record import ClientTime, RoundTime

HOUR = 3600.0
STRAGGLES = 2.0  # times the median client's time


def summarise_fleet(clients: Sequence[ClientTime], rounds: Sequence[RoundTime]) -> dict[str, Any]:
    """What summary.json says of the fleet. Shares are of the clients that were asked, but for those of time.

    hours: of the fleet's clock, from the first order to the last server step; server_hours are in it.
    stragglers: the share that needs over twice the median of all those times from order to answer, that is given up
        before it has answered, or whose work is cut short. Unlike `dropped` it does not depend on who is waited for.
    partial: of those that arrived, the share with less than a whole round's work.
    lost_compute: of all seconds of computation, the share whose result came too late.
    waiting: of the time of clients that arrived, the share between answering and the end of the round.
    """
    arrived = [each for each in clients if each.arrived]
    computed, busy, idle = (
        fsum(each.compute_s for each in clients),
        fsum(each.busy_s for each in arrived),
        fsum(each.idle_s for each in arrived),
    )
    return {
        "hours": rounds[-1].end_s / HOUR if rounds else 0.0,
        "server_hours": fsum(each.server_s for each in rounds) / HOUR,
        "asked": len(clients),
        "arrived": len(arrived),
        "stragglers": _stragglers(clients),
        "dropped": 1 - len(arrived) / max(1, len(clients)),
        "partial": sum(each.share_of_work < 1 for each in arrived) / max(1, len(arrived)),
        "lost_compute": fsum(each.compute_s for each in clients if not each.arrived) / max(computed, 1e-9),
        "waiting": idle / max(busy + idle, 1e-9),
        "staleness": fsum(each.staleness for each in arrived) / max(1, len(arrived)),
        "gb_down": sum(each.bytes_down for each in clients) / 1e9,
        "gb_up": sum(each.bytes_up for each in clients) / 1e9,
    }


def _stragglers(clients: Sequence[ClientTime]) -> float:
    if not clients:
        return 0.0
    limit = STRAGGLES * median(each.busy_s for each in clients)
    return sum(each.busy_s > limit or not each.arrived or each.share_of_work < 1 for each in clients) / len(clients)


@dataclass(frozen=True)
class Heard:
    """How much of what the federation learned came from a group of clients.

    clients: in the group, whether they were ever asked or not.
    counted: of the updates that arrived, which count by their share of work, the group's part.
    fair: its part of the clients.
    wer: of the federation's recogniser on these clients' own dev speech, percent; None where there is none.
    """

    by: str
    group: str
    clients: int
    asked: int
    arrived: int
    counted: float
    fair: float
    wer: float | None = None


def who_is_heard(
    by: str, groups: Mapping[str, str], times: Sequence[ClientTime], wers: Mapping[str, float] | None = None
) -> list[Heard]:
    """A row for each group; `groups` says by client which it is in, `wers` what each group's WER is."""
    members: dict[str, set[str]] = defaultdict(set)
    for client, group in groups.items():
        members[group].add(client)
    whole = fsum(each.share_of_work for each in times if each.arrived)
    rows = []
    for group, names in sorted(members.items()):
        own = [each for each in times if each.client in names]
        counted = fsum(each.share_of_work for each in own if each.arrived)
        rows.append(
            Heard(
                by,
                group,
                len(names),
                len(own),
                sum(each.arrived for each in own),
                counted / max(whole, 1e-9),
                len(names) / len(groups),
                (wers or {}).get(group),
            )
        )
    return rows
