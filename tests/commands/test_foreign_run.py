"""A run directory that somebody else has made: no command runs what its config names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from asr_fed.commands import evaluate, export, fleet_table, personalise, transcribe
from asr_fed.config.schema import Config
from asr_fed.data.manifest import write_manifest
from asr_fed.model.recogniser import save_recogniser
from asr_fed.runs.experiment import Experiment

Write = Callable[[Any], Path]


@pytest.fixture
def foreign(experiment: Experiment, tmp_path: Path) -> Write:
    """A run directory with such an optimizer to personalise with."""

    def write(optimizer: Any) -> Path:
        run_dir, config = tmp_path / "foreign", OmegaConf.structured(experiment.config)
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        save_recogniser(experiment.fresh_recogniser(), run_dir / "checkpoints" / "federated.pt")
        content: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        content["personalisation"] |= {"optimizer": optimizer, "lr": 0.001}
        for name in ("algorithm", "weighting", "server"):
            content[name] = optimizer
        for name in ("federation", "warm_start", "central"):
            content[name]["optimizer"] = optimizer
        content["data"]["prepare"] = optimizer
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
        return run_dir

    return write


@pytest.mark.parametrize("nested", [False, True])
def test_naming_an_object_does_not_run_it(
    foreign: Write, experiment: Experiment, tmp_path: Path, nested: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    owned = tmp_path / "owned"
    attack: Any = {"_target_": "os.mkdir", "path": str(owned)}
    run_dir = foreign({"_target_": "torch.optim.SGD", "momentum": attack} if nested else attack)
    speech = experiment.partition.clients[1].train
    write_manifest(tmp_path / "speech.csv", speech)
    on = ["--manifest", str(tmp_path / "speech.csv"), "--device", "cpu"]
    assert personalise.main([str(run_dir), *on, "--epochs", "1"]) == 2
    assert "'os.mkdir', which is not in --trust" in capsys.readouterr().err.replace("\n", " ")
    assert evaluate.main([str(run_dir), *on, "--decoder", "ctc_greedy"]) == 0
    assert export.main([str(run_dir), str(tmp_path / "folder")]) == 0
    assert transcribe.main([str(run_dir), speech[0].wav]) == 0
    for command in (["plan", str(run_dir)], ["account", str(run_dir), str(tmp_path / "new")]):
        assert fleet_table.main([*command, "simulation=phones"]) == 2
        assert "'os.mkdir', which is not in --trust" in capsys.readouterr().err.replace("\n", " ")
    assert not owned.exists()


def test_what_prepared_the_corpus_is_not_even_imported(
    foreign: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "payload.py").write_text("import pathlib\npathlib.Path(__file__).with_name('owned').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run_dir = foreign({"_target_": "torch.optim.SGD"})
    content: Any = OmegaConf.load(run_dir / "config.yaml")
    ours = OmegaConf.structured(Config(data=content.data))
    for name in ("algorithm", "weighting", "server"):
        content[name] = ours[name]
    content.data.prepare = {"_target_": "payload.prepare"}
    OmegaConf.save(content, run_dir / "config.yaml")
    assert fleet_table.main(["plan", str(run_dir), "simulation=phones"]) == 2
    told = capsys.readouterr().err
    assert "payload" not in told and "--trust" not in told  # all else of it was taken
    assert not (tmp_path / "owned").exists()


def test_an_optimizer_of_ones_own_is_trusted_on_the_command_line(
    foreign: Write, experiment: Experiment, tmp_path: Path
) -> None:
    run_dir = foreign({"_target_": "tests.faults.InterruptibleAdam"})
    write_manifest(tmp_path / "speech.csv", experiment.partition.clients[1].train)
    command = [str(run_dir), "--manifest", str(tmp_path / "speech.csv"), "--device", "cpu", "--epochs", "1"]
    assert personalise.main(command) == 2
    assert personalise.main([*command, "--trust", "tests.faults."]) == 0
