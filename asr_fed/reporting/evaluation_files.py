"""An evaluation on disk: wer_report.txt for people, wer.json, per_utterance.csv and per_speaker.csv for programs."""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from speechbrain.dataio.wer import print_alignments, print_wer_summary

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.breakdown import Group, by_group, by_length, confusions, speaker_spread
from asr_fed.evaluation.evaluate import Evaluation, group_by
from asr_fed.evaluation.statistics import Paired, describe_pair, wer_interval
from asr_fed.evaluation.wer import ErrorCounts, Scored, score, total
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_csv

REPORT, NUMBERS, UTTERANCES, SPEAKERS = "wer_report.txt", "wer.json", "per_utterance.csv", "per_speaker.csv"
OF_A_SPEAKER = ("gender", "age", "accent")


def write_evaluation(
    folder: Path, evaluation: Evaluation, about: Mapping[str, Any], against: Mapping[str, Paired] | None = None
) -> None:
    """Write the four files.

    Args:
        about: names and values that describe the evaluation.
        against: comparisons of this recogniser with others, by their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    against = against or {}
    with replacing(folder / REPORT) as path, path.open("w", encoding="utf-8") as file:
        _write_report(file, evaluation, about, against)
    content = {**about, **numbers(evaluation), **details(evaluation)}
    content["against"] = {name: asdict(paired) for name, paired in against.items()}
    with replacing(folder / NUMBERS) as path:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_csv(folder / UTTERANCES, [_utterance_row(each) for each in evaluation.scored])
    write_csv(folder / SPEAKERS, list(_speaker_rows(evaluation)))


def own_folder(parent: Path, name: str, about: Mapping[str, Any]) -> Path:
    """The folder of an evaluation: `name` in `parent`, or name-2, -3, ... if that holds a different evaluation."""
    folders = (parent / (f"{name}-{number}" if number > 1 else name) for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists() or _is_about(folder, about))


def _is_about(folder: Path, about: Mapping[str, Any]) -> bool:
    try:
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(content.get(key) == value for key, value in about.items())


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote; utterances have only the fields in per_utterance.csv.

    Raises UserError if it is missing or incomplete.
    """
    path = folder / UTTERANCES
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        utterances = [
            Utterance(row["ID"], float(row["duration"]), "", row["speaker"], row["reference"]) for row in rows
        ]
        return Evaluation(score(utterances, [row["hypothesis"] for row in rows]))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not what an evaluation leaves ({error}). Give the folder of one.") from error


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """WER with its interval, CER and counts; `wer_low` and `wer_high` are null if `wer_interval` gives None."""
    words, interval = evaluation.words, wer_interval(list(evaluation.speakers.values()))
    return {
        "wer": evaluation.wer,
        "wer_low": interval.low if interval else None,
        "wer_high": interval.high if interval else None,
        "cer": evaluation.cer,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": words.units,
        "utterances": len(evaluation.scored),
        "wrong_utterances": sum(each.words.errors > 0 for each in evaluation.scored),
        "speakers": len(evaluation.speakers),
    }


def details(evaluation: Evaluation) -> dict[str, Any]:
    """Breakdown of the errors, in JSON types."""
    return {
        "spread": asdict(speaker_spread(evaluation)) if evaluation.scored else None,
        "by_group": {
            column: {group.name: _group_numbers(group) for group in groups}
            for column, groups in by_group(evaluation).items()
        },
        "by_length": {group.name: _group_numbers(group) for group in by_length(evaluation)},
        "confusions": confusions(evaluation),
    }


def _write_report(
    file: TextIO, evaluation: Evaluation, about: Mapping[str, Any], against: Mapping[str, Paired]
) -> None:
    """A summary in Kaldi's format, the breakdown of errors, then every alignment in SpeechBrain's format, worst
    first."""
    for name, value in about.items():
        print(f"{name}: {value}", file=file)
    found = numbers(evaluation)
    scored = len(evaluation.scored)
    print(file=file)
    print_wer_summary(
        {
            **_rates(evaluation.words),
            "num_scored_tokens": evaluation.words.units,
            "num_scored_sents": scored,
            "num_ref_sents": scored,
            "num_absent_sents": 0,
            "num_erroneous_sents": found["wrong_utterances"],
            "SER": 100 * found["wrong_utterances"] / max(1, scored),
        },
        file=file,
    )
    print(f"%CER {found['cer']:.2f}", file=file)
    if found["wer_low"] is not None:
        print(
            f"95 % interval of the WER over {found['speakers']} speakers: "
            f"{found['wer_low']:.2f} to {found['wer_high']:.2f} (jackknife, t)",
            file=file,
        )
    for name, paired in against.items():
        print(f"against {name}: {describe_pair(paired)}", file=file)
    if not scored:
        return
    spread = speaker_spread(evaluation)
    print(
        f"\nSpeakers' WER: best {spread.best:.2f}, median {spread.median:.2f}, worst {spread.worst:.2f}, "
        f"worst tenth {spread.worst_decile:.2f}, Gini {spread.gini:.3f}",
        file=file,
    )
    for column, groups in (*by_group(evaluation).items(), ("words in the utterance", by_length(evaluation))):
        print(f"\nWER by {column}", file=file)
        for group in groups:
            words = f"{group.words.errors} / {group.words.units} words"
            print(f"  {group.words.percent:6.2f}  {group.name}  [ {words}, {group.speakers} speakers ]", file=file)
    for kind, common in confusions(evaluation).items():
        print(f"\nMost frequent {kind}", file=file)
        for what, count in common:
            print(f"  {count:4d}  {what}", file=file)
    print(file=file)
    worst_first = sorted(evaluation.scored, key=lambda each: -each.words.rate)
    print_alignments([_alignment(each) for each in worst_first], file=file)


def _rates(words: ErrorCounts) -> dict[str, Any]:
    return {
        "WER": words.percent,
        "num_edits": words.errors,
        "insertions": words.insertions,
        "deletions": words.deletions,
        "substitutions": words.substitutions,
    }


def _alignment(each: Scored) -> dict[str, Any]:
    """An alignment in the format of SpeechBrain's printer."""
    return {
        "key": each.utterance.id,
        "scored": True,
        **_rates(each.words),
        "num_ref_tokens": each.words.units,
        "ref_tokens": each.utterance.text.split(),
        "hyp_tokens": each.hypothesis.split(),
        "alignment": [(step.mark, step.reference, step.hypothesis) for step in each.alignment],
    }


def _group_numbers(group: Group) -> dict[str, Any]:
    return {
        "wer": group.words.percent,
        "errors": group.words.errors,
        "words": group.words.units,
        "speakers": group.speakers,
        "utterances": group.utterances,
    }


def _utterance_row(each: Scored) -> dict[str, Any]:
    return {
        "ID": each.utterance.id,
        "speaker": each.utterance.speaker,
        "duration": f"{each.utterance.duration:.4f}",
        **_counts(each.words, each.characters),
        "reference": each.utterance.text,
        "hypothesis": each.hypothesis,
    }


def _speaker_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for speaker, own in sorted(group_by(evaluation.scored, "speaker").items()):
        yield {
            "speaker": speaker,
            **{column: getattr(own[0].utterance, column) for column in OF_A_SPEAKER},
            "utterances": len(own),
            "seconds": f"{sum(each.utterance.duration for each in own):.2f}",
            **_counts(total(each.words for each in own), total(each.characters for each in own)),
        }


def _counts(words: ErrorCounts, characters: ErrorCounts) -> dict[str, Any]:
    return {
        "wer": f"{words.percent:.2f}",
        "cer": f"{characters.percent:.2f}",
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": words.units,
    }
