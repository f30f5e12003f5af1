"""The experiment that runs is the one that was named."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra

from asr_fed.commands import train
from asr_fed.commands.experiment_file import find_experiment
from asr_fed.config.files import experiments_folder
from asr_fed.system.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str = "defaults: [schema, _self_]\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["exp1.5", "exp1.5.yaml", "./exp1.5", "lang=fr/exp", "rené/exp.yaml", "an4.yaml"])
def test_a_file_that_is_there_is_taken(name: str) -> None:
    write(Path("exp1.yaml"))
    path = write(Path(name if name.endswith(".yaml") else f"{name}.yaml"))
    assert find_experiment(name) == path


@pytest.mark.parametrize("name", ["an4", "an4.yaml", "hparams/an4", "hparams/an4.yaml"])
def test_a_bare_name_is_one_of_those_that_come_with_us(name: str) -> None:
    assert find_experiment(name) == experiments_folder() / "an4.yaml"


@pytest.mark.parametrize(
    "name", ["wrong/an4.yaml", "./an4.yaml", "hparams/hparams/an4.yaml", "an4.1", "", "federation.rounds=2"]
)
def test_no_other_is_taken_in_its_place(name: str) -> None:
    with pytest.raises(UserError, match="There is no experiment file"):
        find_experiment(name)


def test_a_file_with_another_suffix_is_not_passed_over_for_one_of_ours() -> None:
    write(Path("demo_fr.yml"))
    with pytest.raises(UserError, match=r"demo_fr\.yml .* ends in \.yaml"):
        find_experiment("demo_fr.yml")


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> SimpleNamespace:
    """What the command says to --cfg job."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["train_fed.py", *arguments, "--cfg", "job"])
    code = train.main()
    captured = capsys.readouterr()
    return SimpleNamespace(code=code, out=captured.out, err=captured.err)


def test_a_folder_with_an_equals_sign_and_accents(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = write(Path("lang=fr/été/exp1.5.yaml"), "defaults: [schema, {model: tiny}, _self_]\nseed: 77\n")
    outcome = shown(monkeypatch, capsys, str(path))
    assert outcome.code == 0 and "seed: 77" in outcome.out and "rnn_neurons: 1024" not in outcome.out


@pytest.mark.parametrize("yaml", ["warm_start: models/mine", "warm_start: {checkpoint: models/mine}"])
def test_a_warm_start_in_the_file_is_as_on_the_command_line(yaml: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write(Path("mine.yaml"), f"defaults: [schema, _self_]\n{yaml}\n")
    assert "checkpoint: models/mine" in shown(monkeypatch, capsys, "mine").out
    assert "checkpoint: other=1" in shown(monkeypatch, capsys, "mine", "warm_start=other=1").out
    assert "epochs: 3" in shown(monkeypatch, capsys, "mine", "warm_start={epochs: 3}").out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"defaults: [schema\nseed: 1", "bad.yaml, line 2: this is no YAML"),
        (b"- one\n- two\n", "bad.yaml holds no keys"),
        ("# été\nseed: 1".encode("latin-1"), "bad.yaml is not UTF-8"),
        (
            b"defaults: [schema, {model: tiyn}, _self_]",
            "There is no model=tiyn. It is one of conformer, conformer_tiny, crdnn, ",
        ),
        (b"defaults: [schema, {modle: x}, _self_]", "There is no file modle/x.yaml"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(
    content: bytes, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_bytes(content)
    outcome = shown(monkeypatch, capsys, "bad")
    assert outcome.code == 2
    assert told in outcome.err
    assert "earch path" not in outcome.err and "Traceback" not in outcome.err


def test_a_byte_order_mark_is_no_part_of_the_first_key(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    Path("mine.yaml").write_text("defaults: [schema, _self_]\nseed: 78\n", encoding="utf-8-sig")
    assert "seed: 78" in shown(monkeypatch, capsys, "mine").out
