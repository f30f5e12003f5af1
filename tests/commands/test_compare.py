"""Runs side by side, as `python -m asr_fed.compare` shows them."""

import csv
import json
from pathlib import Path

import pytest

from asr_fed.commands.compare import main
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.statistics import paired_test
from asr_fed.evaluation.wer import score
from asr_fed.reporting.dev_curves import dev_curves
from asr_fed.reporting.evaluation_files import numbers, write_evaluation
from asr_fed.runs.records import write_history
from asr_fed.runs.summary import PretrainingResult, PretrainingSummary, SystemResult, write_summary
from tests.runs.test_records import record

SAID = [Utterance(f"u{n}", 1.0, "", f"s{n % 3}", "one two three four five six") for n in range(9)]


def finish(run_dir: Path, weighting: str, wrong: int, rounds: int = 2, speech: list[Utterance] = SAID) -> Path:
    """A run whose recogniser gets the first `wrong` words of every utterance wrong, and of s2's one more."""
    said = [(u.text.split(), wrong + (u.speaker == "s2")) for u in speech]
    found = Evaluation(score(speech, [" ".join(["x"] * bad + words[bad:]) for words, bad in said]))
    write_evaluation(run_dir / "evaluation" / "federated", found, {})
    summary = {
        **{"mode": "federated", "test_wer": found.wer, "test_cer": found.cer, "warm_start_wer": 90.0, "rounds": rounds},
        **{
            "best_round": 1,
            "clients": 3,
            "seconds": 60.0,
            "decoder": "ctc_greedy",
            "systems": {"federated": numbers(found)},
        },
        "command": f"python train_fed.py hparams/an4.yaml weighting={weighting} seed=1",
    }
    (run_dir / "summary.json").write_text(json.dumps(summary))
    spent = {"round_seconds": 2.0, "bytes_up": 2 * 10**6, "bytes_down": 10**6, "audio_seconds": 1800.0}
    write_history(run_dir, [record(number, **spent) for number in range(1, rounds + 1)])
    return run_dir


def finish_pretraining(run_dir: Path, federation: str, wrong: int | None, loss: float) -> Path:
    """A pre-training with a held-out loss of 3 and then 2 on the way. Its recogniser gets `wrong` words of six wrong in
    every utterance, the one from scratch five; None: it has no recognisers."""
    run_dir.mkdir()
    recognised = {} if wrong is None else {"fine_tuned": wrong, "from_scratch": 5}
    found = {}
    for name, bad in recognised.items():
        said = [u.text.split() for u in SAID]
        found[name] = Evaluation(score(SAID, [" ".join(["x"] * bad + words[bad:]) for words in said]))
        write_evaluation(run_dir / "evaluation" / name, found[name], {})
    summary = PretrainingSummary(
        task="best_rq",
        test_loss=loss,
        test_accuracy=27.25,
        systems={"federated": PretrainingResult(loss, 27.25, 100, 41.25, 8.5)},
        recognition={name: SystemResult(**numbers(evaluation)) for name, evaluation in found.items()},
        difference=paired_test(found["fine_tuned"], found["from_scratch"]) if found else None,
        command=f"python train_fed.py hparams/ssl_an4.yaml federation={federation}",
    )
    write_summary(run_dir, summary)
    write_history(run_dir, [record(number, dev_loss=4.0 - number, accuracy=20.0) for number in (1, 2)])
    return run_dir


def test_pretrainings_are_compared_with_each_other_and_with_the_recognisers_from_scratch(tmp_path: Path) -> None:
    runs = [
        finish_pretraining(tmp_path / "a", "cross_silo", 2, 3.125),
        finish_pretraining(tmp_path / "b", "cross_device", 3, 3.25),
    ]
    assert main([*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    result, of_training = ((tmp_path / "out" / "comparison.md").read_text(encoding="utf-8").split("\n\n"))[:2]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.splitlines()]
    assert cells[0][1:4] == ["WER\u00a0%", "scratch WER\u00a0%", "to first"]
    assert cells[2][:3] == ["cross_silo", "33.33", "83.33"] and cells[3][:3] == ["cross_device", "50.00", "83.33"]
    assert (cells[2][3], cells[3][3]) == ("", "+16.67")
    assert "| cross_silo | best_rq | 3.125 | 27.25 | 41.2 | 8.5 | -50.00 |" in of_training
    assert "No test" not in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["scratch_wer"]) for row in rows] == [pytest.approx(500 / 6)] * 2
    with (tmp_path / "out" / "comparison_curves.csv").open(encoding="utf-8", newline="") as file:
        curves = list(csv.DictReader(file))
    assert [(row["dev_wer"], row["dev_loss"]) for row in curves] == [("", "3.0"), ("", "2.0")] * 2
    figure = dev_curves([(run.name, run) for run in runs])
    assert figure is not None and figure.axes[0].get_ylabel() == "dev loss"
    assert [list(line.get_ydata()) for line in figure.axes[0].get_lines()] == [[3.0, 2.0]] * 2


def test_a_pretraining_stands_beside_a_recogniser_and_alone_by_its_loss(tmp_path: Path) -> None:
    others = [
        finish_pretraining(tmp_path / "tuned", "cross_silo", 2, 3.125),
        finish_pretraining(tmp_path / "alone", "cross_device", None, 3.5),
    ]
    runs = [finish(tmp_path / "supervised", "uniform", 3), *others]
    assert main([*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "-22.22" in table and "3.500" in table and "No test" not in table
    figure = dev_curves([(run.name, run) for run in runs])
    assert figure is not None and figure.axes[0].get_ylabel() == "dev WER %"


def test_runs_are_compared_with_the_first_by_both_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [finish(tmp_path / "a", "uniform", 3), finish(tmp_path / "b", "num_examples", 1, rounds=4)]
    assert main([*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (float(first["test_wer"]), first["difference"]) == (pytest.approx(500 / 9), "")
    assert float(second["difference"]) == pytest.approx(-100 / 3)
    # All three speakers, and all nine utterances, are two errors better.
    assert (float(second["paired_t_p"]), float(second["matched_pairs_p"])) == (0.5**2, 0.5**8)
    assert (float(second["wer_low"]), float(second["wer_high"])) == (
        pytest.approx(7.6, abs=0.1),
        pytest.approx(65.2, 0.01),
    )
    assert (float(second["audio_hours"]), float(second["mb_up"]), float(second["mb_down"])) == (2.0, 8.0, 4.0)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    table = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    for text in (page, table, capsys.readouterr().out):
        assert all(shown in text for shown in ("weighting", "num_examples", "-33.33", "0.25", "0.0039", "7.6 to 65.2"))
        assert "seed=1" not in text, "both have it in common"
    assert "://" not in page and "data:image/svg+xml" in page
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / "comparison_curves.csv").open(encoding="utf-8", newline="") as file:
        curves = list(csv.DictReader(file))
    assert [row["run"] for row in curves] == ["uniform"] * 2 + ["num_examples"] * 4
    assert (curves[1]["round"], curves[1]["seconds"], curves[1]["fleet_hours"]) == ("2", "4.0", "")


def test_runs_have_the_names_that_the_user_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [finish(Path(folder), weighting, 1) for folder, weighting in (("a", "uniform"), ("b=c", "num_examples"))]
    assert main([f"the paper's={runs[0]}", str(runs[1]), "--output", "compared"]) == 0
    rows = list(csv.DictReader(Path("compared/comparison.csv").read_text().splitlines()))
    assert [(row["name"], row["run_dir"]) for row in rows] == [("the paper's", "a"), ("", "b=c")]
    curves = list(csv.DictReader(Path("compared/comparison_curves.csv").read_text().splitlines()))
    assert {row["run"] for row in curves} == {"the paper's", "num_examples"}
    assert "| the paper's |" in Path("compared/comparison.md").read_text()
    assert main(["x=a", "x=b=c"]) == 2
    assert "Two runs are called x" in capsys.readouterr().err


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    runs = [finish(tmp_path / "a", "uniform", 3), finish(tmp_path / "b", "uniform", 3, speech=SAID[:5])]
    summary = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps(summary | {"decoder": "beam"}))
    assert main([*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "to first" not in table
    assert "No test of run 2 against the first" in table
    assert "Not decoded alike, so that WERs differ for that too: run 1 ctc_greedy, run 2 beam." in table


def test_runs_without_rounds_have_a_table_and_no_plot(tmp_path: Path) -> None:
    assert main([str(finish(tmp_path / "a", "uniform", 1, rounds=0)), "--output", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "comparison.png").exists()
    assert "22.22" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")


def test_a_run_that_has_not_ended_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 2
    assert "nowhere has no summary.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
