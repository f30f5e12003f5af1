"""One tiny experiment, and a machine to run it on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.deployment.machine import Machine
from tests.tiny import Corpus, settings, write_experiment_file


@pytest.fixture
def machine(corpus: Corpus, prepared: Path, tmp_path: Path) -> Iterator[Machine]:
    yield from _machine(corpus, prepared, tmp_path)


@pytest.fixture(scope="module")
def lasting_machine(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all tests of a module: each leaves it as it found it."""
    yield from _machine(corpus, prepared, tmp_path_factory.mktemp("machine"))


def _machine(corpus: Corpus, prepared: Path, folder: Path) -> Iterator[Machine]:
    content = settings(corpus, prepared, folder / "unused")
    del content["engine"], content["run_dir"]
    machine = Machine(folder, write_experiment_file(folder / "tiny.yaml", content, weighting="wer_softmax"))
    yield machine
    machine.clear()
