"""The rows of a recipe's table, from what its runs left."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from asr_fed.runs.records import read_history
from asr_fed.runs.summary import RunSummary, read_summary
from asr_fed.system.errors import UserError
from recipes.checking.recipe import Recipe, Row

if TYPE_CHECKING:
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.evaluation.wer import ErrorCounts


@dataclass(frozen=True)
class Measured:
    """A row of measured.csv: WER and CER in percent, differences in points of WER, None where there is none.

    wer: of all runs together, which is their mean, since all have the same test words. `low` to `high`: its 95 %
        interval over test speakers. `least` and `greatest`: of the single runs.
    difference: to the row `against`, with the interval over test speakers of the difference and p of both tests.
        `difference_least` to `difference_greatest`: of the single runs to the other row's run of the same place, which
        has the same seed.
    minutes: of one run, the mean.
    ctc_greedy_wer: of the runs, the mean, where they were decoded so as well.
    effective_clients: of a federation, the mean over its rounds and runs: sum(w)^2 / sum(w^2).
    speakers: word errors of each test speaker in all runs, of the same speaker at the same place in every row. What
        stands above of speakers follows from them.
    """

    name: str
    wer: float
    low: float | None
    high: float | None
    least: float
    greatest: float
    cer: float
    against: str | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    difference_least: float | None
    difference_greatest: float | None
    paired_t_p: float | None
    matched_pairs_p: float | None
    runs: int
    minutes: float
    ctc_greedy_wer: float | None
    effective_clients: float | None
    speakers: "tuple[ErrorCounts, ...]"


FIELDS = dataclasses.fields(Measured)


def measure(recipe: Recipe, runs: Path) -> list[Measured]:
    """The rows, from what the runs left. Raises UserError where that is not there, or `against` does not fit."""
    evaluations = {row.name: pooled(row, runs) for row in recipe.rows}
    summaries = {run: read_summary(runs / run) for row in recipe.rows for run in row.runs}
    wers = {row.name: [summaries[run].systems[row.system].wer for run in row.runs] for row in recipe.rows}
    for row in recipe.rows:
        if row.against is not None and len(wers.get(row.against, [])) != len(row.runs):
            raise UserError(f"{recipe.folder.name}: {row.name} is compared with {row.against}, no row of as many runs.")
    return [_measure_row(row, evaluations, wers, [summaries[run] for run in row.runs], runs) for row in recipe.rows]


def _measure_row(
    row: Row,
    evaluations: "Mapping[str, Evaluation]",
    wers: Mapping[str, Sequence[float]],
    summaries: Sequence[RunSummary],
    runs: Path,
) -> Measured:
    own, other = evaluations[row.name], None if row.against is None else evaluations[row.against]
    # A row with nothing to compare with has no differences.
    differences = [one - another for one, another in zip(wers[row.name], wers.get(row.against or "", []), strict=False)]
    speakers = tuple(own.speakers.values())
    return Measured(
        name=row.name,
        **over_speakers(speakers, None if other is None else tuple(other.speakers.values())),
        least=min(wers[row.name]),
        greatest=max(wers[row.name]),
        cer=own.cer,
        against=row.against,
        difference_least=min(differences, default=None),
        difference_greatest=max(differences, default=None),
        matched_pairs_p=None if other is None else _matched_pairs_p(own, other, len(row.runs)),
        runs=len(row.runs),
        minutes=fmean(summary.seconds for summary in summaries) / 60,
        ctc_greedy_wer=_mean([summary.systems[row.system].ctc_greedy_wer for summary in summaries]),
        effective_clients=_effective_clients(row, runs) if row.system == "federated" else None,
        speakers=speakers,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _effective_clients(row: Row, runs: Path) -> float | None:
    """A federation has as many rounds in each of its runs."""
    return _mean([record.effective_clients for run in row.runs for record in read_history(runs / run)])


def over_speakers(own: "Sequence[ErrorCounts]", other: "Sequence[ErrorCounts] | None") -> dict[str, Any]:
    """What a row says of speakers, by field; `other`: the same speakers in the row that it is compared with."""
    from asr_fed.evaluation.statistics import paired_t, wer_interval
    from asr_fed.evaluation.wer import total

    interval = wer_interval(own)
    around, p = (None, None) if other is None else paired_t(own, other)
    return {
        "wer": total(own).percent,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "difference": None if other is None else total(own).percent - total(other).percent,
        "difference_low": around and around.low,
        "difference_high": around and around.high,
        "paired_t_p": p,
    }


def recount(rows: Sequence[Measured]) -> list[Measured]:
    """The rows with what follows from their counts computed again. Raises UserError where one has none."""
    speakers = {row.name: row.speakers for row in rows}
    if bare := [name for name, counts in speakers.items() if not counts]:
        raise UserError(f"measured.csv has no counts for {', '.join(bare)}: make it from runs with --write.")
    return [
        dataclasses.replace(row, **over_speakers(row.speakers, None if row.against is None else speakers[row.against]))
        for row in rows
    ]


def _matched_pairs_p(own: "Evaluation", other: "Evaluation", runs: int) -> float | None:
    """Of several runs the segments are whole utterances, since what they make of the same one is not independent."""
    from asr_fed.evaluation.matched_pairs import matched_pairs_p
    from asr_fed.evaluation.statistics import paired_test

    if runs == 1:
        return paired_test(own, other).matched_pairs_p
    differences: dict[str, int] = defaultdict(int)
    for evaluation, sign in ((own, 1), (other, -1)):
        for each in evaluation.scored:
            if each.words.errors:
                differences[each.utterance.id.partition(" ")[2]] += sign * each.words.errors
    return matched_pairs_p(list(differences.values()))


def pooled(row: Row, runs: Path) -> "Evaluation":
    """What the row's runs made of the test set, together: an utterance occurs once for each run."""
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.reporting.evaluation_files import read_evaluation

    scored = []
    for place, run in enumerate(row.runs):
        folder = runs / run / "evaluation" / row.system
        if not folder.is_dir():
            raise UserError(f"{folder} is not there. Make it: python -m asr_fed.evaluation {runs / run}")
        for each in read_evaluation(folder).scored:
            utterance = dataclasses.replace(each.utterance, id=f"{place} {each.utterance.id}")
            scored.append(dataclasses.replace(each, utterance=utterance))
    return Evaluation(tuple(scored))
