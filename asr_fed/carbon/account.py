"""An account: what was added up, as rows for tables, carbon.json and carbon.csv."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asr_fed.carbon.constants import Constants
from asr_fed.carbon.model import PHASES, Band, Term, band, emissions, energy, grouped, names
from asr_fed.carbon.verdict import Verdict, judge
from asr_fed.system.files import write_csv, write_text

JSON, CSV = "carbon.json", "carbon.csv"


@dataclass(frozen=True)
class Sums:
    """Energy in Wh and emissions in g CO2e of some terms."""

    wh: Band
    g: Band


@dataclass(frozen=True)
class Account:
    """Terms of a federation and, where it is known, of the centralised run.

    mbps: mean speed of the clients' networks. wer_gained: points of WER that the federation took off.
    """

    title: str
    federated: tuple[Term, ...]
    central: tuple[Term, ...]
    constants: Constants
    mbps: float | None = None
    wer_gained: float | None = None

    def sums(self, terms: Sequence[Term]) -> Sums:
        return Sums(band(energy, terms, self.constants), band(emissions, terms, self.constants))

    @cached_property
    def total(self) -> Sums:
        return self.sums(self.federated)

    @cached_property
    def centralised(self) -> Sums | None:
        return self.sums(self.central) if self.central else None

    @cached_property
    def by_phase(self) -> dict[str, Sums]:
        """Of the federation, in the order of a round; phases without work are left out."""
        groups = grouped(self.federated, lambda term: term.phase)
        return {phase: self.sums(groups[phase]) for phase in PHASES if phase in groups}

    @cached_property
    def by_country(self) -> dict[str, Sums]:
        groups = grouped(self.federated, lambda term: term.country)
        return {str(country): self.sums(terms) for country, terms in groups.items()}

    @cached_property
    def by_round(self) -> dict[int, Sums]:
        groups = grouped(self.federated, lambda term: term.round)
        return {int(number): self.sums(groups[number]) for number in sorted(groups)}

    @cached_property
    def verdict(self) -> Verdict | None:
        return judge(self.federated, self.central, self.constants, self.mbps) if self.central else None

    @cached_property
    def g_per_point(self) -> Band | None:
        """g CO2e for each point of WER that the federation took off; None where it took off none."""
        if self.wer_gained is None or self.wer_gained <= 0:
            return None
        return Band(*(g / self.wer_gained for g in self.total.g))

    def shares(self) -> dict[str, float]:
        """Of the federation's emissions, by phase."""
        return {phase: sums.g.value / self.total.g.value for phase, sums in self.by_phase.items()}


def write_account(folder: Path, account: Account) -> None:
    """carbon.json, and carbon.csv with a row for each round, country and phase."""
    write_text(folder / JSON, json.dumps(describe(account), indent=2) + "\n")
    write_csv(folder / CSV, rows(account))


def describe(account: Account) -> dict[str, Any]:
    """All of it but the rows of single rounds and countries; bands are `low`, `value`, `high`, null for infinite."""
    used = sorted(names((*account.federated, *account.central)))
    verdict = account.verdict
    return {
        "title": account.title,
        "federated": _sums(account.total),
        "by_phase": {phase: _sums(sums) for phase, sums in account.by_phase.items()},
        "by_country": {country: _sums(sums) for country, sums in account.by_country.items()},
        "by_round": {str(number): _sums(sums) for number, sums in account.by_round.items()},
        "centralised": _sums(account.centralised) if account.centralised else None,
        "wer_gained": account.wer_gained,
        "g_per_point": account.g_per_point and account.g_per_point._asdict(),
        "mbps": account.mbps,
        "verdict": None
        if verdict is None
        else {
            "ratio": verdict.ratio._asdict(),
            "break_even_mbps": _limits(verdict.mbps),
            "break_even_intensity": _limits(verdict.intensity),
            "turns": [
                {"constant": turn.constant.name, "at": turn.at, "within_bounds": turn.within} for turn in verdict.turns
            ],
            "sentence": verdict.sentence,
        },
        "constants": [asdict(account.constants[name]) for name in used],
    }


def summarise_account(account: Account, measured: dict[str, Any] | None) -> dict[str, Any]:
    """What summary.json says of it. `measured`: what codecarbon found of this host, which is no part of the rest."""
    verdict = account.verdict
    return {
        "wh": account.total.wh._asdict(),
        "g": account.total.g._asdict(),
        "central_g": account.centralised.g._asdict() if account.centralised else None,
        "ratio": verdict.ratio._asdict() if verdict else None,
        "break_even_mbps": _limits(verdict.mbps) if verdict else None,
        "break_even_intensity": _limits(verdict.intensity) if verdict else None,
        "g_per_point": account.g_per_point and account.g_per_point._asdict(),
        "sentence": verdict.sentence if verdict else None,
        "measured_on_this_host": measured,
    }


def rows(account: Account) -> list[dict[str, Any]]:
    """Wh and g CO2e with their bounds by round, country and phase; the centralised run has round 0."""
    found = []
    for system, terms in (("federated", account.federated), ("centralised", account.central)):
        for (number, country, phase), group in grouped_rows(terms).items():
            sums = account.sums(group)
            row: dict[str, Any] = {"system": system, "round": number, "country": country, "phase": phase}
            for name, result in (("wh", sums.wh), ("g", sums.g)):
                row |= {name: result.value, f"{name}_low": result.low, f"{name}_high": result.high}
            found.append(row)
    return found


def grouped_rows(terms: Sequence[Term]) -> dict[tuple[int, str, str], list[Term]]:
    groups: dict[tuple[int, str, str], list[Term]] = {}
    for term in terms:
        groups.setdefault((term.round, term.country, term.phase), []).append(term)
    return groups


def _limits(band: Band | None) -> dict[str, float | None] | None:
    """For JSON, which knows no infinite number."""
    return band and {name: number if math.isfinite(number) else None for name, number in band._asdict().items()}


def _sums(sums: Sums) -> dict[str, Any]:
    return {"wh": sums.wh._asdict(), "g": sums.g._asdict()}
