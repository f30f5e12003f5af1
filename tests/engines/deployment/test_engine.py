"""Handing a run to a SuperLink: what can go wrong before and after, in the user's words."""

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.cli.config_utils import load_and_validate
from hydra.utils import get_object

from asr_fed.config.schema import EngineConfig, EngineKind
from asr_fed.engines.deployment import engine as deployment
from asr_fed.engines.deployment.engine import _connect, _reason, federate_in_deployment, write_app
from asr_fed.engines.deployment.server_app import ERROR_FILE
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from tests.engines.deployment.machine import free_port
from tests.faults import FOR_EVER


def test_the_app_is_one_that_flower_takes_and_holds_no_code(tmp_path: Path) -> None:
    run_dir = tmp_path / 'a "run"\\dir é'
    write_app(tmp_path / "app", run_dir)
    config, warnings = load_and_validate(tmp_path / "app" / "pyproject.toml", check_module=True)
    assert warnings == []
    assert config["tool"]["flwr"]["app"]["config"] == {"run-dir": str(run_dir)}
    for component in config["tool"]["flwr"]["app"]["components"].values():
        get_object(component.replace(":", "."))
    assert sorted(path.name for path in (tmp_path / "app").iterdir()) == ["LICENSE", "pyproject.toml"]


def test_without_an_address_there_is_no_superlink(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.address=HOST:PORT"):
        _connect(tmp_path / "home", EngineConfig(kind=EngineKind.deployment))


def test_certificates_without_a_ca(tmp_path: Path) -> None:
    engine = EngineConfig(kind=EngineKind.deployment, address="127.0.0.1:1", certificates=str(tmp_path))
    with pytest.raises(UserError, match=r"holds no ca\.crt"):
        _connect(tmp_path / "home", engine)


@pytest.mark.parametrize("tls", [True, False])
def test_flower_is_told_where_the_superlink_is(tmp_path: Path, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.crt").touch()
    monkeypatch.chdir(tmp_path)
    engine = EngineConfig(kind=EngineKind.deployment, address="127.0.0.1:8000", certificates="." if tls else None)
    assert _connect(tmp_path / "home", engine) == "127.0.0.1:8000"
    told = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]
    trust = {"root-certificates": str(tmp_path / "ca.crt")} if tls else {"insecure": True}
    assert told == {"default": "server", "server": {"address": "127.0.0.1:8000", **trust}}


def test_a_superlink_that_is_not_there_is_not_waited_for(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "PATIENCE", FOR_EVER)
    shutil.copytree(experiment.run_dir, tmp_path / "run")
    address = f"127.0.0.1:{free_port()}"
    engine = EngineConfig(kind=EngineKind.deployment, address=address)
    there = replace(experiment, run_dir=tmp_path / "run", config=replace(experiment.config, engine=engine))
    with pytest.raises(UserError, match=f"The SuperLink at {address} did not take the run") as raised:
        federate_in_deployment(there)
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)


def test_the_reason_of_a_failure_is_what_the_serverapp_left(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)) + "\n\n")
    failed = _reason(tmp_path, log, "finished:failed", "exit code 1")
    assert "exit code 1" in failed and failed.endswith("line 99") and "line 50" not in failed and str(log) in failed
    assert "can be resumed" in _reason(tmp_path, log, "finished:stopped", "")
    (tmp_path / ERROR_FILE).write_text("2 of 3 node(s) joined within 9 s.")
    assert _reason(tmp_path, log, "finished:failed", "exit code 1") == "2 of 3 node(s) joined within 9 s."


def test_a_log_that_was_never_written_is_no_further_error(tmp_path: Path) -> None:
    assert "started badly" in _reason(tmp_path, tmp_path / "server.log", "finished:failed", "started badly")
