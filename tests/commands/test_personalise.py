"""python -m asr_fed.personalise, as a user calls it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from omegaconf import OmegaConf

import asr_fed.tasks.personalise
from asr_fed.commands.personalise import main
from asr_fed.data.manifest import read_manifest, write_manifest
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import read_state
from asr_fed.reporting.evaluation_files import read_evaluation
from asr_fed.runs.experiment import Experiment


@pytest.fixture
def model(experiment: Experiment, tmp_path: Path) -> Path:
    save_recogniser(experiment.fresh_recogniser(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def manifest(experiment: Experiment, tmp_path: Path) -> Path:
    """Three speakers, one of them in two Unicode forms, and one with a single utterance."""
    clients, path = experiment.partition.clients, tmp_path / "corpus" / "speech.csv"
    zoe = [replace(utterance, speaker="Zoé") for utterance in clients[0].train]
    speech = [utterance for client in clients[1:3] for utterance in client.train]
    write_manifest(path, [*zoe, *speech, clients[3].train[0]])
    path.write_text(path.read_text().replace("Zoé", "Zoe\u0301", len(zoe) // 2))
    return path


def call(model: Path, manifest: Path, *more: str) -> int:
    return main([str(model), "--manifest", str(manifest), "--epochs", "1", "--device", "cpu", *more])


def rows(output: Path) -> list[dict[str, Any]]:
    with (output / "personalisation.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_speaker_gets_a_copy_that_is_judged_on_held_back_speech(
    model: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(model, manifest, "--part", "head", "--save", "--held-back", "0.4") == 0
    output = tmp_path / "personalised" / "speech-head"
    utterances = read_manifest(manifest)
    before, after = (read_evaluation(output / when) for when in ("before", "after"))
    assert before.hypotheses.keys() == after.hypotheses.keys() < {utterance.id for utterance in utterances}
    for row in rows(output):
        own = [utterance for utterance in utterances if utterance.speaker == row["speaker"]]
        assert int(row["utterances"]) + int(row["held_back"]) == len(own)
        assert int(row["held_back"]) == max(1, round(0.4 * len(own)))
        assert float(row["wer_after"]) == pytest.approx(after.speakers[row["speaker"]].percent, abs=0.01)
        copy = load_recogniser(output / "speakers" / f"{quote(row['speaker'])}.pt")
        assert read_state(copy.model).tobytes() != read_state(load_recogniser(model).model).tobytes()
    assert len(rows(output)) == 3, "one utterance cannot be split"
    assert len(list((output / "speakers").iterdir())) == 3
    content = json.loads((output / "after" / "wer.json").read_text())
    assert content["part"] == "head" and content["lr"] == 0.001
    assert content["against"]["before"]["difference"] == pytest.approx(after.wer - before.wer)
    assert "of 3 speakers" in capsys.readouterr().out


def test_a_stopped_command_goes_on_and_another_one_is_refused(
    model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped = (tmp_path / name for name in ("straight", "stopped"))
    assert call(model, manifest, "--output", str(straight)) == 0

    real, called = asr_fed.tasks.personalise.personalise_client, []

    def stops(*arguments: Any, **more: Any) -> Any:
        called.append(arguments[1].id)
        if len(called) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(asr_fed.tasks.personalise, "personalise_client", stops)
    assert call(model, manifest, "--output", str(stopped)) == 130
    with (stopped / "heard.jsonl").open("a") as file:
        file.write('{"speaker": "cut')  # as a kill in mid-write leaves it
    assert call(model, manifest, "--output", str(stopped)) == 0
    assert called[0] not in called[2:] and len(called) == 4
    for name in ("personalisation.csv", "before/per_utterance.csv", "after/per_utterance.csv"):
        assert (stopped / name).read_text() == (straight / name).read_text()

    capsys.readouterr()
    assert call(model, manifest, "--output", str(stopped), "--part", "norm_bias") == 2
    assert "holds the result of another lr, part." in capsys.readouterr().err


def test_speakers_whose_speech_has_changed_and_copies_that_are_missing_are_made_again(
    model: Path, manifest: Path, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert call(model, manifest, "--output", str(output)) == 0
    real, called = asr_fed.tasks.personalise.personalise_client, []

    def counted(*arguments: Any, **more: Any) -> Any:
        called.append(arguments[1].id)
        return real(*arguments, **more)

    monkeypatch.setattr(asr_fed.tasks.personalise, "personalise_client", counted)
    speech = read_manifest(manifest)
    changed = speech[0].speaker
    write_manifest(manifest, speech[1:])
    assert call(model, manifest, "--output", str(output)) == 0
    assert called == [changed]
    called.clear()
    assert call(model, manifest, "--output", str(output), "--save") == 0
    assert len(called) == len(rows(output)) == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--held-back", "1"], "--held-back 1: a share"),
        (["--decoder", "beam"], "needs the attention decoder, which a loss.ctc_weight of 1 does not train"),
        (["--speakers", "nobody\u0301"], "has no speaker nobod\u00fd"),  # a name is composed at this door too
        (["--split", "test"], "no speaker with two utterances"),
    ],
)
def test_what_cannot_be_done_is_said(
    model: Path, manifest: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(model, manifest, *more) == 2
    assert told in capsys.readouterr().err


def test_settings_of_the_run_that_have_changed_are_other_settings(
    experiment: Experiment, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, content = tmp_path / "run", OmegaConf.structured(experiment.config)
    save_recogniser(experiment.fresh_recogniser(), run_dir / "checkpoints" / "federated.pt")

    def again(*words: str, **changes: Any) -> int:
        content.personalisation = OmegaConf.merge(content.personalisation, changes)
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(content, resolve=True))
        return call(run_dir, manifest, *words)

    assert again(optimizer={"_target_": "torch.optim.SGD"}, lr=0.001) == 0
    assert again() == 0
    assert again(clip=3.0) == 2
    assert "holds the result of another clip." in capsys.readouterr().err
    assert again("--part", "head") == 2  # the rate of the run is for its own part
    assert "with the run's personalisation.optimizer give --lr" in capsys.readouterr().err
