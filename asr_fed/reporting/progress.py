"""Terminal output of a run: progress bars, and above them one line per step."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from asr_fed.evaluation.statistics import describe_pair
from asr_fed.reporting.tracking import Track
from asr_fed.runs.records import RoundRecord
from asr_fed.runs.summary import PretrainingResult, RunSummary, SystemResult
from asr_fed.training.central import EpochReport


class RunProgress:
    """Terminal output of one run; numbers also go to `track`. A context manager."""

    def __init__(self, track: Track = lambda name, value, step: None) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._track = track

    def __enter__(self) -> "RunProgress":
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def say(self, text: str | Text | Table) -> None:
        self.console.print(text, soft_wrap=True)

    def epoch(self, name: str, report: EpochReport) -> None:
        wer = "" if report.wer is None else f"  dev WER {report.wer:6.2f}"
        self.say(
            f"{name}: epoch {report.epoch:3d}{wer}{_of_masked(report)}  loss {report.loss:.3f}  lr {report.lr:.3g}"
        )
        self._track(f"{name}/loss", report.loss, report.epoch)
        self._track(f"{name}/lr", report.lr, report.epoch)
        for measure in ("wer", "dev_loss", "accuracy"):
            if (value := getattr(report, measure)) is not None:
                self._track(f"{name}/{measure}", value, report.epoch)

    def round(self, record: RoundRecord) -> None:
        wer = "" if record.wer is None or record.cer is None else f"  dev WER {record.wer:6.2f}  CER {record.cer:6.2f}"
        wer += _of_masked(record)
        if record.untranscribed:
            wer += f"  own hypotheses {record.pseudo_labelled} of {record.untranscribed}"
        failed = f"  failed: {', '.join(record.failures)}" if record.failures else ""
        shortened = f"  {record.clipped} node(s) shortened" if record.clipped else ""
        age = "" if record.staleness is None else f"  steps old {record.staleness:.1f}"
        told = (
            f"round {record.round:3d}{wer}  loss {record.loss:.3f}  lr {record.lr:.3g}  "
            f"clients {record.clients} (effective {record.effective_clients:.1f}){age}  {record.round_seconds:.1f} s"
        )
        self.say(Text.assemble(told, (shortened, "yellow"), (failed, "red")))
        for key, value in vars(record).items():
            if isinstance(value, int | float) and key not in ("round", "version"):
                self._track(f"federation/{key}", value, record.round)

    def result(self, summary: RunSummary) -> None:
        self.say(result_table(summary.systems, f"{summary.test_speakers} unseen test speakers"))
        for name, paired in summary.against.items():
            against = f"{summary.own} against {name}".replace("_", " ")
            self.say(f"{against}: {describe_pair(paired)}")
        for name, system in summary.systems.items():
            self._track(f"test/{name}_wer", system.wer, summary.rounds)
            self._track(f"test/{name}_cer", system.cer, summary.rounds)


def pretraining_table(systems: Mapping[str, PretrainingResult]) -> Table:
    """Of each model on the test speakers: loss, accuracy, and how its encoder's states vary."""
    table = Table(title="unseen test speakers, masked states")
    for column in ("", "loss", "right %", "masked", "between utterances %", "effective rank"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in systems.items():
        cells = [f"{found.loss:.3f}", f"{found.accuracy:.2f}", f"{found.masked:.0f}"]
        cells += [f"{each:.1f}" for each in (found.between, found.effective_rank) if each is not None]
        table.add_row(name.replace("_", " "), *cells)
    return table


def result_table(systems: Mapping[str, SystemResult], title: str) -> Table:
    """WER and CER of each system on the test speakers; beside the WER of a beam search that of CTC greedy, if there is
    one."""
    table = Table(title=title)
    both = any(result.ctc_greedy_wer is not None for result in systems.values())
    for column in ("", "WER %", "95 % interval", *(["CTC greedy"] * both), "CER %", "sub", "del", "ins", "words"):
        table.add_column(column, justify="left" if not column else "right")
    for name, result in systems.items():
        greedy = [f"{result.ctc_greedy_wer:.2f}"] if both else []
        counts = map(str, (result.substitutions, result.deletions, result.insertions, result.words))
        cells = (f"{result.wer:.2f}", interval(result), *greedy, f"{result.cer:.2f}", *counts)
        table.add_row(name.replace("_", " "), *cells)
    return table


def interval(result: SystemResult) -> str:
    """Interval of the WER over test speakers; empty if there is only one speaker."""
    return "" if result.wer_low is None else f"{result.wer_low:.1f} to {result.wer_high:.1f}"


def _of_masked(numbers: EpochReport | RoundRecord) -> str:
    """What a pre-training has in place of a WER."""
    if numbers.dev_loss is None or numbers.accuracy is None:
        return ""
    return f"  dev loss {numbers.dev_loss:.3f}  right {numbers.accuracy:5.2f} %"
