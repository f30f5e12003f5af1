"""python -m asr_fed.evaluation, as a user calls it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.commands.evaluate import main
from asr_fed.data.manifest import write_manifest
from asr_fed.model.recogniser import save_recogniser
from asr_fed.reporting.evaluation_files import read_evaluation
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.run_dir import run_of


@pytest.fixture
def run_dir(experiment: Experiment, tmp_path: Path) -> Path:
    """With a checkpoint and the config that it was made by, as a run leaves them."""
    from omegaconf import OmegaConf

    folder = tmp_path / "run"
    save_recogniser(experiment.fresh_recogniser(), folder / "checkpoints" / "federated.pt")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(experiment.config)))
    return folder


@pytest.fixture
def manifest(experiment: Experiment, tmp_path: Path) -> Path:
    write_manifest(tmp_path / "corpus" / "few.csv", [*experiment.partition.test, *experiment.partition.dev])
    return tmp_path / "corpus" / "few.csv"


def test_any_checkpoint_is_evaluated_on_any_manifest(
    experiment: Experiment, run_dir: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_dir), "--manifest", str(manifest), "--device", "cpu"]) == 0
    output = run_dir / "evaluation" / "model-few-ctc_greedy"
    first = read_evaluation(output)
    assert [each.utterance.id for each in first.scored] == [
        utterance.id for utterance in (*experiment.partition.test, *experiment.partition.dev)
    ]
    content = json.loads((output / "wer.json").read_text())
    assert content["decoder"] == "ctc_greedy" and content["speakers"] == 2
    assert f"{first.wer:.2f}" in capsys.readouterr().out

    alone = tmp_path / "elsewhere" / "taken.pt"
    alone.parent.mkdir()
    alone.write_bytes((run_dir / "checkpoints" / "federated.pt").read_bytes())
    arguments = [str(alone), "--manifest", str(manifest), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--decoder", "beam", "--beam-size", "2", "--against", str(output)]) == 0
    content = json.loads((tmp_path / "out" / "wer.json").read_text())
    assert content["decoder"] == "beam"
    assert content["against"][str(output)]["difference"] == pytest.approx(content["wer"] - first.wer)
    assert (manifest.parent / "features").is_dir(), "without a run, features are kept beside the manifest"


def test_references_that_the_recogniser_cannot_write_are_told(
    experiment: Experiment, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = [replace(utterance, text=utterance.text.upper()) for utterance in experiment.partition.test]
    write_manifest(tmp_path / "upper.csv", upper)
    assert main([str(run_dir), "--manifest", str(tmp_path / "upper.csv"), "--device", "cpu"]) == 0
    [told] = [line for line in capsys.readouterr().out.splitlines() if "cannot write" in line]
    assert "It writes lower case" in told
    output = run_dir / "evaluation" / "model-upper-ctc_greedy"
    assert json.loads((output / "wer.json").read_text())["remark"] == told
    assert told in (output / "wer_report.txt").read_text()


def test_no_evaluation_overwrites_another(
    experiment: Experiment, run_dir: Path, manifest: Path, tmp_path: Path
) -> None:
    first, second = (tmp_path / name / "manifest.csv" for name in ("fr", "it"))
    write_manifest(first, experiment.partition.test)
    write_manifest(second, [replace(utterance, split="test") for utterance in experiment.partition.dev])
    twin = tmp_path / "other" / "fr" / "manifest.csv"
    write_manifest(twin, experiment.partition.dev)
    for arguments in (
        [first, "--decoder", "ctc_greedy"],
        [first, "--decoder", "ctc_greedy"],  # the same once more
        [first, "--decoder", "beam", "--beam-size", "2"],
        [first, "--decoder", "beam", "--beam-size", "3"],
        [second, "--decoder", "ctc_greedy"],
        [second, "--decoder", "ctc_greedy", "--split", "test"],
        [twin, "--decoder", "ctc_greedy"],
    ):
        assert main([str(run_dir), "--manifest", *map(str, arguments), "--device", "cpu"]) == 0
    said = {path.parent.name: json.loads(path.read_text()) for path in run_dir.glob("evaluation/*/wer.json")}
    assert {name: (content["speech"], content.get("beam_size")) for name, content in said.items()} == {
        "model-fr-ctc_greedy": (str(first), None),
        "model-fr-beam": (str(first), 2),
        "model-fr-beam-2": (str(first), 3),
        "model-it-ctc_greedy": (str(second), None),
        "model-it-test-ctc_greedy": (f"{second}, split test", None),
        "model-fr-ctc_greedy-2": (str(twin), None),
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--manifest", "MANIFEST"], "There is nothing at nowhere"),
        (["RUN", "--manifest", "nowhere.csv"], "There is no manifest at nowhere.csv"),
        (["RUN", "--manifest", "MANIFEST", "--split", "test"], "no split test (it has: none)"),
        (
            ["RUN", "--manifest", "MANIFEST", "--output", "MANIFEST/out"],
            "few.csv/out cannot be written: Not a directory.",
        ),
        (
            ["RUN", "--manifest", "MANIFEST", "--features", "MANIFEST/out"],
            "few.csv/out cannot be used: Not a directory.",
        ),
        (["RUN/checkpoints/federated.pt"], "Give --manifest FILE"),
        (["RUN"], "no summary.json"),
        (["RUN", "--output", "there", "--split", "dev"], "--split and --output would not be used without --manifest"),
        (["FOREIGN", "--manifest", "MANIFEST"], "config.yaml is not the config of a run"),
        (["RUN", "--manifest", "MANIFEST", "--against", "RUN"], "is not what an evaluation leaves"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(
    arguments: list[str], told: str, run_dir: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = manifest.parent / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("learning_rate: 3\n")
    places = {"RUN": run_dir, "MANIFEST": manifest, "FOREIGN": foreign}
    words = arguments
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    assert main([*words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_the_run_behind_a_checkpoint_is_found_wherever_one_stands(
    run_dir: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir / "checkpoints")
    assert run_of(Path("federated.pt")) == run_dir
    (tmp_path / "config.yaml").write_text("of: something else\n")
    monkeypatch.chdir(tmp_path)
    assert run_of(Path("model.pt")) is None and run_of(Path("models/model.pt")) is None
    assert run_of(run_dir) == run_dir == run_of(run_dir / "checkpoints" / "federated.pt")
    assert run_of(manifest) is None
