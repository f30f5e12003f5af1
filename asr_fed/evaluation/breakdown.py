"""Where a recogniser makes errors: by speaker, by group of speakers, by length, and by word."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from asr_fed.data.spread import gini
from asr_fed.evaluation.evaluate import Evaluation, group_by
from asr_fed.evaluation.wer import ErrorCounts, Scored, total

GROUPS = ("gender", "age", "accent", "locale")  # columns of the manifest
LENGTHS = (1, 3, 6, 10, 15, 20)  # the smallest number of reference words of each bin
COMMON = 20  # confusions to list


@dataclass(frozen=True)
class Group:
    """A group of utterances and its word errors."""

    name: str
    speakers: int
    utterances: int
    words: ErrorCounts


@dataclass(frozen=True)
class Spread:
    """How unequal the WERs (in percent) of speakers are.

    worst_decile: mean over the 10 % of speakers with the highest WER (at least one speaker).
    gini: Gini coefficient of the speakers' WERs, 0 if all are equal.
    """

    best: float
    median: float
    worst: float
    worst_decile: float
    gini: float


def by_group(evaluation: Evaluation) -> dict[str, list[Group]]:
    """For each column of the manifest with at least two values, one group per value; unknown comes last."""
    found = {}
    for column in GROUPS:
        groups = group_by(evaluation.scored, column)
        if len(groups) > 1:
            found[column] = [
                _group(name or "unknown", groups[name]) for name in sorted(groups, key=lambda n: (not n, n))
            ]
    return found


def by_length(evaluation: Evaluation) -> list[Group]:
    """Groups by the number of words in the reference."""
    groups = []
    for first, after in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        own = [
            each
            for each in evaluation.scored
            if first <= each.words.units and not (after and each.words.units >= after)
        ]
        name = f"{first} or more" if after is None else str(first) if after == first + 1 else f"{first} to {after - 1}"
        if own:
            groups.append(_group(name, own))
    return groups


def confusions(evaluation: Evaluation) -> dict[str, list[tuple[str, int]]]:
    """The most frequent `substitutions` ("said > heard"), `deletions` and `insertions`, each with its number."""
    counters: dict[str, Counter[str]] = {"substitutions": Counter(), "deletions": Counter(), "insertions": Counter()}
    for each in evaluation.scored:
        said, heard = each.utterance.text.split(), each.hypothesis.split()
        for step in each.alignment:
            if step.mark == "S" and step.reference is not None and step.hypothesis is not None:
                counters["substitutions"][f"{said[step.reference]} > {heard[step.hypothesis]}"] += 1
            elif step.mark == "D" and step.reference is not None:
                counters["deletions"][said[step.reference]] += 1
            elif step.mark == "I" and step.hypothesis is not None:
                counters["insertions"][heard[step.hypothesis]] += 1
    return {
        kind: sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:COMMON]
        for kind, counter in counters.items()
    }


def speaker_spread(evaluation: Evaluation) -> Spread:
    """The spread of an evaluation with at least one speaker."""
    wers = sorted(counts.percent for counts in evaluation.speakers.values())
    decile = wers[-max(1, round(len(wers) / 10)) :]
    return Spread(wers[0], median(wers), wers[-1], fmean(decile), gini(wers))


def _group(name: str, scored: Sequence[Scored]) -> Group:
    speakers = {each.utterance.speaker for each in scored}
    return Group(name, len(speakers), len(scored), total(each.words for each in scored))
