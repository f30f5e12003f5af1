"""The command that times this machine."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from asr_fed.commands.measure import main
from asr_fed.config.files import experiments_folder


@dataclass
class Found:
    step_seconds: float


@pytest.mark.parametrize("experiment", sorted(experiments_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_no_corpus_is_needed(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asr_fed.simulation.reference.measure_machine", lambda config, device: Found(0.5))
    assert main([str(experiment), "device=cpu"]) == 0
    assert "simulation.reference.step_seconds=0.5" in capsys.readouterr().out
