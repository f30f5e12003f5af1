"""The page: that it is whole without a network, escapes what people said, and shows what went wrong."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client, Partition
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.wer import score
from asr_fed.reporting.evaluation_files import numbers
from asr_fed.reporting.report import CLIP_SECONDS, marked, samples, write_report
from asr_fed.runs.summary import RunSummary, SystemResult
from tests.runs.test_records import record

FAILED = {"client_0001": "hangs"}
VOID = {"meta", "link", "img", "br"}


class Balance(HTMLParser):
    """Complains of a tag that is closed before what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def speech(tmp_path: Path) -> list[Utterance]:
    """Three test utterances with recordings, the last too long to be listened to."""
    for number, seconds in enumerate((1.0, 2.0, 1.0)):
        time = np.arange(round(8000 * seconds)) / 8000
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * np.sin(440 * time), 8000)
    return [
        Utterance("u0", 1.0, str(tmp_path / "0.wav"), "anne", "you & me <b>", gender="female"),
        Utterance("u1", 2.0, str(tmp_path / "1.wav"), "bob", "one two three", gender="male"),
        Utterance("u2", CLIP_SECONDS + 1, str(tmp_path / "2.wav"), "bob", "four five", gender="male"),
    ]


def evaluations(speech: list[Utterance]) -> dict[str, Evaluation]:
    return {
        "warm_start": Evaluation(score(speech, ["you", "one", "four"])),
        "federated": Evaluation(score(speech, ["you & you <b>", "one two three four", "five"])),
    }


def page(
    tmp_path: Path, speech: list[Utterance], clips: int = 6, history: Any = None, beside: dict[str, float] | None = None
) -> str:
    found = evaluations(speech)
    summary = RunSummary(
        test_wer=found["federated"].wer,
        test_cer=found["federated"].cer,
        warm_start_wer=found["warm_start"].wer,
        test_speakers=2,
        clients=2,
        hours=0.1,
        rounds=2,
        best_round=1,
        decoder="ctc_greedy",
        parameters=1000,
        seconds=60.0,
        weights_sha256="f" * 64,
        command="python train_fed.py a.yaml b='<c>'",
        versions={"torch": "2.11.0"},
        systems={name: SystemResult(**numbers(evaluation) | (beside or {})) for name, evaluation in found.items()},
    )
    clients = tuple(Client(f"client_{n}", (Utterance(f"c{n}", 60.0 + n, "", f"c{n}", "x"),), ()) for n in range(2))
    (tmp_path / "config.yaml").write_text("seed: 1 # <script>\n")
    if history is None:
        history = [record(1, failures=FAILED), record(2, wer=None, cer=None)]
    write_report(tmp_path, summary, history, found, Partition((), (), (), tuple(speech), clients), clips=clips)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path, speech: list[Utterance]) -> None:
    text = page(tmp_path, speech)
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert "://" not in text and "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(source.startswith("data:") for source in sources)
    assert 'name="viewport"' in text and "@media print" in text
    for heading in ("Result", "Rounds", "Who holds the speech", "For whom it works", "What was heard", "To repeat it"):
        assert f"<h2>{heading}</h2>" in text
    assert "1 times a client that was asked yielded nothing" in text
    assert page(tmp_path, speech) == text, "the same run, another page"


def test_ctc_greedy_stands_beside_a_beam(tmp_path: Path, speech: list[Utterance]) -> None:
    assert "CTC greedy" not in page(tmp_path, speech)
    text = page(tmp_path, speech, beside={"ctc_greedy_wer": 12.345, "ctc_greedy_cer": 1.0})
    assert "CTC greedy WER %" in text and "12.35" in text


def test_what_people_said_and_typed_is_text_not_markup(tmp_path: Path, speech: list[Utterance]) -> None:
    text = page(tmp_path, speech)
    assert "you &amp; me &lt;b&gt;" in text and "# &lt;script&gt;" in text and "&lt;c&gt;" in text


def test_errors_are_marked_where_they_are(speech: list[Utterance]) -> None:
    marks = [marked(each) for each in evaluations(speech)["federated"].scored]
    assert marks == ["you &amp; <b>you</b> &lt;b&gt;", "one two three <ins>four</ins>", "<del>four</del> five"]


def test_recordings_can_be_heard_as_far_as_is_allowed(tmp_path: Path, speech: list[Utterance]) -> None:
    found = samples(evaluations(speech), "federated", clips=3)
    assert [sample.audio is not None for sample in sorted(found, key=lambda s: s.utterance.id)] == [True, True, False]
    audio = next(sample.audio for sample in found if sample.utterance.id == "u1")
    assert audio is not None
    content, rate = soundfile.read(io.BytesIO(base64.b64decode(audio.split(",")[1])))
    assert rate == 16000 and len(content) / rate == pytest.approx(2.0, abs=0.1)
    assert "<audio" not in page(tmp_path, speech, clips=0)
    Path(speech[0].wav).unlink()
    assert page(tmp_path, speech).count("<audio") == 1


def test_a_run_without_rounds_has_a_page(tmp_path: Path, speech: list[Utterance]) -> None:
    text = page(tmp_path, speech, history=[])
    assert "<h2>Rounds</h2>" not in text and "<h2>Result</h2>" in text
