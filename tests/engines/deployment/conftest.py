"""One tiny experiment, and a machine to run it on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.deployment.machine import Machine
from tests.tiny import Corpus, settings, write_experiment_file


@pytest.fixture
def machine(corpus: Corpus, prepared: Path, tmp_path: Path) -> Iterator[Machine]:
    content = settings(corpus, prepared, tmp_path / "unused")
    del content["engine"], content["run_dir"]
    machine = Machine(tmp_path, write_experiment_file(tmp_path / "tiny.yaml", content, weighting="wer_softmax"))
    yield machine
    machine.clear()
