"""WER and CER by jiwer. `ErrorCounts` are whole numbers, so they can be added in any order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest

import jiwer

from asr_fed.data.manifest import Utterance

# SpeechBrain's marks in an alignment, for jiwer's names of the same.
MARKS = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}


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


@dataclass(frozen=True)
class Step:
    """One column of an alignment: `mark` is =, S, D or I; a word that is not there is None."""

    mark: str
    reference: int | None  # position of the word in the reference
    hypothesis: int | None  # and in the hypothesis


@dataclass(frozen=True)
class Scored:
    """What was said, what was heard, and how the two differ."""

    utterance: Utterance
    hypothesis: str
    alignment: tuple[Step, ...]  # of words
    characters: ErrorCounts

    @property
    def words(self) -> ErrorCounts:
        marks = [step.mark for step in self.alignment]
        return ErrorCounts(marks.count("S"), marks.count("D"), marks.count("I"), len(marks) - marks.count("I"))


def score(utterances: Sequence[Utterance], hypotheses: Sequence[str]) -> tuple[Scored, ...]:
    """Align each hypothesis with its utterance's text. Raises ValueError where the numbers of both differ."""
    if len(utterances) != len(hypotheses):
        raise ValueError(f"{len(utterances)} utterances, {len(hypotheses)} hypotheses")
    if not utterances:
        return ()
    aligned = jiwer.process_words([utterance.text for utterance in utterances], list(hypotheses))
    return tuple(
        Scored(utterance, hypothesis, tuple(_steps(chunks)), character_errors(utterance.text, hypothesis))
        for utterance, hypothesis, chunks in zip(utterances, hypotheses, aligned.alignments, strict=True)
    )


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    counts = jiwer.process_characters(reference, hypothesis)
    units = counts.hits + counts.substitutions + counts.deletions
    return ErrorCounts(counts.substitutions, counts.deletions, counts.insertions, units)


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    return sum(counts, ErrorCounts())


def _steps(chunks: Iterable[jiwer.AlignmentChunk]) -> Iterable[Step]:
    for chunk in chunks:
        references = range(chunk.ref_start_idx, chunk.ref_end_idx)
        hypotheses = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        for reference, hypothesis in zip_longest(references, hypotheses):
            yield Step(MARKS[chunk.type], reference, hypothesis)
