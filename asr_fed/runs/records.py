"""Records of a run for programs: history.jsonl has one line per round. One writer and one reader."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from asr_fed.system.files import replacing
from asr_fed.training.central import EpochReport

VERSION = 2  # of the records; 0.1.0 wrote none, which counts as 1
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class NodeRecord:
    """How one node spent a round; times in seconds. `idle` is the share of the time that the server waited."""

    node: int
    clients: int
    predicted_seconds: float
    busy_seconds: float
    start_seconds: float
    idle: float


@dataclass(frozen=True)
class RoundRecord:
    """One round. WER and CER are percentages, None if the round was not evaluated; times are in seconds.

    docs/numbers.md says what each number means.
    """

    round: int
    lr: float
    loss: float
    client_wer: float
    clients: int
    examples: int
    weight_sum: float
    effective_clients: float
    skipped_steps: int
    audio_seconds: float
    train_seconds: float
    success: float
    failures: dict[str, str]
    dropped: int
    attempts: int
    bytes_down: int
    bytes_up: int
    exchange_seconds: float
    aggregate_seconds: float
    held_out_seconds: float
    round_seconds: float
    best_round: int
    wer: float | None = None
    cer: float | None = None
    dev_loss: float | None = None  # of pre-training, as is
    accuracy: float | None = None  # the percentage of the dev speech's masked states that were guessed right
    client_wer_deviation: float | None = None  # between clients, without the noise of counting
    annealed_lr: float | None = None  # the rate by NewBob on the dev WER alone
    untranscribed: int = 0  # training utterances without transcript, and those of them with a hypothesis trained on
    pseudo_labelled: int = 0
    staleness: float | None = None  # mean age of the updates in server steps; None where a round waits for its cohort
    clipped: int = 0  # nodes whose update was shortened (federation.robust)
    fleet_seconds: float | None = None  # of the simulated fleet's clock; None without one
    workers: list[NodeRecord] = field(default_factory=list)
    version: int = VERSION

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "RoundRecord":
        """Read a line of any version so far. Raises ValueError if a number is missing."""
        known = {each.name for each in fields(cls)}
        workers = [NodeRecord(**worker) for worker in content.get("workers", [])]
        try:
            return cls(**{"version": 1, **{name: content[name] for name in known & content.keys()}, "workers": workers})
        except TypeError as error:
            raise ValueError(f"a round's record without some of its numbers: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_history(run_dir: Path, history: Iterable[RoundRecord]) -> None:
    """history.jsonl, one line per round; whole or not at all."""
    with replacing(run_dir / HISTORY) as path:
        path.write_text("".join(json.dumps(record.to_dict()) + "\n" for record in history), encoding="utf-8")


def write_epochs(run_dir: Path, name: str, reports: Iterable[EpochReport]) -> None:
    """NAME.jsonl of a central training, one line per epoch."""
    with replacing(run_dir / f"{name}.jsonl") as path:
        path.write_text("".join(json.dumps(asdict(report)) + "\n" for report in reports), encoding="utf-8")


def read_epochs(run_dir: Path, name: str) -> list[EpochReport]:
    """Empty where there is no such training, or a version of asr_fed before this file made it."""
    path = run_dir / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [EpochReport(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_history(run_dir: Path) -> list[RoundRecord]:
    """The rounds that have ended so far; none where there is no file."""
    path = run_dir / HISTORY
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [RoundRecord.from_dict(json.loads(line)) for line in lines]
