"""What an evaluation leaves on disk, and what can be read from it again."""

import csv
import json
from pathlib import Path

import pytest

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.statistics import paired_test
from asr_fed.evaluation.wer import score
from asr_fed.reporting.evaluation_files import numbers, read_evaluation, write_evaluation
from asr_fed.system.errors import UserError

UTTERANCES = [
    Utterance("u1", 2.5, "", "anne", "the cat sat on the mat", gender="female", age="twenties"),
    Utterance("u2", 1.25, "", "bob", "yes, “no”"),
]


def evaluation(*hypotheses: str) -> Evaluation:
    return Evaluation(score(UTTERANCES, list(hypotheses)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found, earlier = evaluation("the bat sat the mat now", "yes, “no”"), evaluation("the mat", "yes")
    write_evaluation(tmp_path / "out", found, {"decoder": "beam"}, {"warm_start": paired_test(found, earlier)})
    return tmp_path / "out"


def test_the_report_has_summary_and_alignments_as_kaldi_and_speechbrain_have_them(folder: Path) -> None:
    report = (folder / "wer_report.txt").read_text(encoding="utf-8")
    assert report.startswith("decoder: beam\n")
    assert "%WER 37.50 [ 3 / 8, 1 ins, 1 del, 1 sub ]" in report
    assert "%SER 50.00 [ 1 / 2 ]" in report
    assert "against warm_start: -37.50 points of WER (95 % interval over speakers" in report
    assert "u1, %WER 50.00 [ 3 / 6, 1 ins, 1 del, 1 sub ]" in report
    said, marks, heard = report.split("u1, %WER")[1].splitlines()[1:4]
    assert [word.strip() for word in said.split(";")] == ["the", "cat", "sat", "on", "the", "mat", "<eps>"]
    assert [word.strip() for word in marks.split(";")] == ["=", "S", "=", "D", "=", "=", "I"]
    assert [word.strip() for word in heard.split(";")] == ["the", "bat", "sat", "<eps>", "the", "mat", "now"]
    assert report.index("u1, %WER") < report.index("u2, %WER"), "the worst comes first"


def test_the_numbers_are_those_of_the_evaluation(folder: Path) -> None:
    content = json.loads((folder / "wer.json").read_text(encoding="utf-8"))
    assert content["decoder"] == "beam" and content["wer"] == 37.5 and content["words"] == 8
    assert (content["substitutions"], content["deletions"], content["insertions"]) == (1, 1, 1)
    assert 0 < content["wer_low"] < 1 and content["wer_high"] > 100, "two speakers say next to nothing"
    assert content["by_group"]["gender"]["female"]["wer"] == 50
    assert content["confusions"]["substitutions"] == [["cat > bat", 1]]
    assert content["spread"]["worst"] == 50
    assert content["against"]["warm_start"]["difference"] == -37.5
    with (folder / "per_speaker.csv").open(encoding="utf-8", newline="") as file:
        anne, bob = csv.DictReader(file)
    assert (anne["speaker"], anne["gender"], anne["seconds"], anne["wer"]) == ("anne", "female", "2.50", "50.00")
    assert (bob["wer"], bob["words"]) == ("0.00", "2")


def test_what_was_written_can_be_read_and_compared(folder: Path) -> None:
    read = read_evaluation(folder)
    assert read.words == evaluation("the bat sat the mat now", "yes, “no”").words
    assert read.hypotheses == {"u1": "the bat sat the mat now", "u2": "yes, “no”"}
    assert paired_test(read, evaluation("the bat sat the mat now", "yes, “no”")).difference == 0


def test_an_empty_evaluation_is_written_too(tmp_path: Path) -> None:
    write_evaluation(tmp_path, Evaluation(()), {})
    assert "%WER 0.00" in (tmp_path / "wer_report.txt").read_text(encoding="utf-8")
    assert read_evaluation(tmp_path) == Evaluation(())


@pytest.mark.parametrize(
    "content", [None, "ID,speaker\nu1,anne\n", "ID,duration,speaker,reference,hypothesis\nu,x,a,b,c\n"]
)
def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "per_utterance.csv").write_text(content)
    with pytest.raises(UserError, match="is not what an evaluation leaves"):
        read_evaluation(tmp_path)


def test_an_interval_is_over_speakers_however_their_speech_is_cut() -> None:
    """Eight utterances of each of two speakers, or the same words in two utterances."""
    said = {"anne": ["a b c d"] * 8, "bob": ["a b c d"] * 8}
    heard = {"anne": ["a b c d", "a b x x"] * 4, "bob": ["a b c x"] * 8}

    def cut(size: int) -> dict[str, object]:
        """With so many sentences an utterance."""
        utterances, hypotheses = [], []
        for speaker in said:
            for start in range(0, 8, size):
                text, hypothesis = (" ".join(own[speaker][start : start + size]) for own in (said, heard))
                utterances.append(Utterance(f"{speaker}{start}", 1.0, "", speaker, text))
                hypotheses.append(hypothesis)
        found = numbers(Evaluation(score(utterances, hypotheses)))
        return {name: found[name] for name in ("wer", "wer_low", "wer_high")}

    assert cut(1) == cut(8) and cut(1)["wer"] == 25
