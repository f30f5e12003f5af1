"""What many tests share: one tiny corpus and one prepared experiment on it, made once a session."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the machine's cores are for the worker processes of the tests

import sys
from pathlib import Path

import hypothesis
import pytest
import torch
from speechbrain.utils.importutils import LazyModule

from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.tasks.recognition import Recognition
from tests.tiny import Corpus, settings, typed_config, write_corpus

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Hypothesis asks every module for its file, and SpeechBrain's lazy ones answer by importing what is not installed.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        vars(module).setdefault("__file__", None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:dropout option adds dropout after all but last")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all experiments of the session keep manifest and features."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="session")
def experiment(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Prepared, not trained."""
    config = typed_config(settings(corpus, prepared, tmp_path_factory.mktemp("run")))
    return prepare_experiment(config)


@pytest.fixture
def context(experiment: Experiment) -> Recognition:
    """A fresh model, always with the same initial weights."""
    return experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
