"""WER and CER by jiwer. `ErrorCounts` are whole numbers and so can be added up in any order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """Substitutions, deletions, insertions against the number of reference units (words or characters)."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    units: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units, as a fraction; above 1 where there are many insertions."""
        return self.errors / max(1, self.units)

    @property
    def percent(self) -> float:
        return 100 * self.rate


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    return _counts(jiwer.process_words(list(references), list(hypotheses))) if references else ErrorCounts()


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    return _counts(jiwer.process_characters(list(references), list(hypotheses))) if references else ErrorCounts()


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    return ErrorCounts(
        output.substitutions,
        output.deletions,
        output.insertions,
        output.hits + output.substitutions + output.deletions,
    )


def by_speaker(speakers: Iterable[str], references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, ErrorCounts]:
    """Word errors of each speaker."""
    grouped: dict[str, tuple[list[str], list[str]]] = {}
    for speaker, reference, hypothesis in zip(speakers, references, hypotheses, strict=True):
        pair = grouped.setdefault(speaker, ([], []))
        pair[0].append(reference)
        pair[1].append(hypothesis)
    return {speaker: word_errors(*pair) for speaker, pair in sorted(grouped.items())}
