"""What a real federation leaves on the server's disk is for its owner alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_fed.pipeline import train as pipeline
from asr_fed.system.errors import UserError
from tests.tiny import Corpus, settings, typed_config

PORTS = "engine.address=127.0.0.1:8000", "federation.round_timeout=60", "federation.client_timeout=60"


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("engine", "others"), [("local", True), ("deployment", False)])
def test_who_may_read_the_partition(
    engine: str, others: bool, corpus: Corpus, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "check_reachable", lambda config: None)  # no SuperLink is there
    monkeypatch.setattr(pipeline, "train_models", stop)
    config = typed_config(settings(corpus, prepared, tmp_path / "run"), f"engine.kind={engine}", *PORTS)
    with pytest.raises(UserError, match="far enough"):
        pipeline.train(config)
    assert bool((tmp_path / "run" / "partition" / "partition.csv").stat().st_mode & 0o044) is others
