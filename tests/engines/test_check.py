"""An engine that cannot work is refused before anything is prepared or trained."""

import socket
import sys
from pathlib import Path

import pytest

from asr_fed.engines.check import check_reachable
from asr_fed.pipeline.train import train
from asr_fed.system.errors import UserError
from asr_fed.system.processes import available_cores
from tests.tiny import Corpus, settings, typed_config

RAY = ["engine.kind=ray", "engine.workers=1"]


def check(*changes: str) -> None:
    check_reachable(typed_config({}, *changes))


def test_engines_that_can_work_pass() -> None:
    check()
    check("engine.workers=64")  # slow, but possible, and warned of
    check(*RAY)
    check("mode=central", "engine.kind=deployment")  # trains without it


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install \"asr_fed\[ray\]\""):
        check(*RAY)


def test_more_workers_than_a_cluster_of_our_own_has_cores() -> None:
    cores = available_cores()
    with pytest.raises(UserError, match=rf"room for {cores} workers of 1 CPU, and engine\.workers asks for more"):
        check("engine.kind=ray", f"engine.workers={cores + 1}")
    with pytest.raises(UserError, match=rf"room for 0 workers of {cores + 1} CPU"):
        check("engine.kind=ray", f"engine.threads_per_worker={cores + 1}")


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"engine\.address=127\.0\.0\.1:1: the Ray cluster cannot be joined"):
        check(*RAY, "engine.address=127.0.0.1:1")


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_deep_for_sockets(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, f"/tmp/{'x' * 120}")
    with pytest.raises(UserError, match="Set TMPDIR or RAY_TMPDIR to one of at most "):
        check(*RAY)


def test_a_superlink_that_does_not_answer_is_told_before_any_work(corpus: Corpus, tmp_path: Path) -> None:
    content = settings(corpus, tmp_path / "prepared", tmp_path / "run")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        content["engine"] |= {"kind": "deployment", "address": f"127.0.0.1:{nobody.getsockname()[1]}"}
        with pytest.raises(UserError, match=r"SuperLink at engine\.address=127\.0\.0\.1:\d+ does not answer"):
            train(typed_config(content))
    assert not (tmp_path / "run").exists() and not (tmp_path / "prepared").exists()
