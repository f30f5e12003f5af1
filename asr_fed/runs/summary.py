"""summary.json: what a run found out. One writer and one reader."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text

if TYPE_CHECKING:
    from asr_fed.evaluation.breakdown import Spread
    from asr_fed.evaluation.statistics import Paired

VERSION = 2  # of the file; 0.1.0 wrote none, which counts as 1
SUMMARY = "summary.json"
# Recognisers that a run trains after a pre-training: by its encoder, and by random weights.
FINE_TUNED, FROM_SCRATCH = RECOGNISERS = ("fine_tuned", "from_scratch")


@dataclass(frozen=True)
class SystemResult:
    """One recogniser on the test speakers: rates in percent, counts of words.

    wer_low, wer_high: the 95 % interval of the WER over speakers, None where it has none.
    ctc_greedy_wer, ctc_greedy_cer: of the cheap decoder, None where that is the one of `wer`, or is not trained.
    """

    wer: float
    cer: float
    wer_low: float | None = None
    wer_high: float | None = None
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0
    utterances: int = 0
    wrong_utterances: int = 0
    speakers: int = 0
    ctc_greedy_wer: float | None = None
    ctc_greedy_cer: float | None = None


@dataclass(frozen=True)
class GainsSummary:
    """What personalisation brought on all held-back words together; WER in percent, None where there are no words.

    failures: the reason for each client that has failed, without those that had too little speech.
    """

    part: str
    decoder: str
    clients: int
    words: int
    wer_before: float | None
    wer_after: float | None
    better: int
    worse: int
    too_little_speech: int
    failures: dict[str, str]


@dataclass(frozen=True)
class PretrainingResult:
    """One pre-trained model on the test speakers: loss, and accuracy in percent, over so many masked states.

    between, effective_rank: how the encoder's states vary (`StateVariance`); None where an older version wrote none.
    """

    loss: float
    accuracy: float
    masked: float
    between: float | None = None
    effective_rank: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the summary of any run says. docs/numbers.md says what each number means.

    A default stands where an older version wrote nothing. `weights_sha256` is of the run's `own` model. carbon,
    simulation: as the rooms of these names make them; None where the run has none.
    """

    mode: str = "federated"
    best_round: int = 0
    rounds: int = 0
    clients: int = 0
    hours: float = 0.0
    parameters: int = 0
    weights_sha256: str = ""
    tokenizer_sha256: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    version: int = VERSION
    carbon: dict[str, Any] | None = None
    simulation: dict[str, Any] | None = None

    @property
    def own(self) -> str:
        """The model that the run was for."""
        return "central" if self.mode == "central" else "federated"

    @property
    def recogniser(self) -> str:
        """Whose WER the run's is; evaluation/NAME has its utterances."""
        return self.own


@dataclass(frozen=True)
class PretrainingSummary(Facts):
    """A pre-training that has ended: of its `own` model, and of each one by name.

    recognition: FINE_TUNED and FROM_SCRATCH, if recognisers were trained afterwards (`fine_tune`).
    difference: the first minus the second, in points of WER.
    """

    task: str
    test_loss: float
    test_accuracy: float
    systems: dict[str, PretrainingResult]
    recognition: dict[str, SystemResult] = field(default_factory=dict)
    difference: "Paired | None" = None

    @property
    def recogniser(self) -> str:
        return FINE_TUNED

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "PretrainingSummary":
        """Raises ValueError where it is no summary."""
        try:
            from asr_fed.evaluation.statistics import read_paired

            systems = {name: PretrainingResult(**found) for name, found in content["systems"].items()}
            recognition = {name: SystemResult(**found) for name, found in content.get("recognition", {}).items()}
            difference = content.get("difference") and read_paired(content["difference"])
            typed = {"systems": systems, "recognition": recognition, "difference": difference}
            return cls(**{**_known(cls, content), **typed})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no summary of a pre-training: {error}") from error


@dataclass(frozen=True)
class RunSummary(Facts):
    """A run that has ended. `test_wer` and `test_cer` (percent) are those of its `own` recogniser.

    systems, spread: by recogniser; against: `own` compared with the others.
    """

    test_wer: float
    test_cer: float
    warm_start_wer: float | None = None
    test_speakers: int = 0
    decoder: str | None = None
    systems: dict[str, SystemResult] = field(default_factory=dict)
    against: "dict[str, Paired]" = field(default_factory=dict)
    spread: "dict[str, Spread]" = field(default_factory=dict)
    personalisation: GainsSummary | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "RunSummary":
        """From the file of any version so far. Raises ValueError where it is no summary."""
        from asr_fed.evaluation.breakdown import Spread
        from asr_fed.evaluation.statistics import read_paired

        try:
            gains = content.get("personalisation")
            return cls(
                **{
                    "version": 1,
                    **_known(cls, content),
                    "systems": {
                        name: SystemResult(**_known(SystemResult, found))
                        for name, found in content.get("systems", {}).items()
                    },
                    "against": {name: read_paired(found) for name, found in content.get("against", {}).items()},
                    "spread": {name: Spread(**found) for name, found in content.get("spread", {}).items()},
                    "personalisation": None if gains is None else GainsSummary(**gains),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no summary of a run: {error}") from error


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: content[each.name] for each in fields(kind) if each.name in content}


def write_summary(run_dir: Path, summary: RunSummary | PretrainingSummary) -> None:
    """summary.json, whole or not at all."""
    write_text(run_dir / SUMMARY, json.dumps(asdict(summary), indent=2) + "\n")


def read_summary(run_dir: Path) -> RunSummary:
    """Raises UserError where the run has not ended, has trained no recogniser, or the file is not a summary."""
    summary = read_any_summary(run_dir)
    if isinstance(summary, PretrainingSummary):
        raise UserError(f"{run_dir} is a pre-training ({summary.task}): it has no word error rate.")
    return summary


def read_any_summary(run_dir: Path) -> RunSummary | PretrainingSummary:
    """Raises UserError where the run has not ended, or the file is not a summary."""
    path = run_dir / SUMMARY
    if not path.is_file():
        raise UserError(f"{run_dir} has no {SUMMARY}: it is no run, or one that has not ended.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "test_loss" in content:
            return PretrainingSummary.from_dict(content)
        return RunSummary.from_dict(content)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
