"""Rounds of a model that is frozen in part: what travels, what stays, and who may take part."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from asr_fed.engines.workers import Workers
from asr_fed.federation.client_app import open_worker
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.state import FederationState
from asr_fed.model.recogniser import AcousticModel, load_recogniser, save_recogniser
from asr_fed.model.state import freeze, frozen_sha256, layout, read_state
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.runs.run_dir import begin_run
from asr_fed.system.errors import UserError
from asr_fed.wire.messages import Refused
from tests.federation.inline_pool import InlinePool
from tests.tiny import Corpus, settings, typed_config

HEADER = 128  # bytes of numpy's header of an array
ALWAYS = ("federation.cohort=null", "federation.rounds=2")


def begun(corpus: Corpus, prepared: Path, run_dir: Path, *changes: str) -> Experiment:
    """A run whose warm start is there, as the workers open it."""
    experiment = prepare_experiment(typed_config(settings(corpus, prepared, run_dir), *ALWAYS, *changes))
    begin_run(experiment.config)
    save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
    return experiment


def run(experiment: Experiment) -> FederationState:
    with Workers(InlinePool(functools.partial(open_worker, str(experiment.run_dir))), 2) as workers:
        return run_federation(experiment, workers)


def model_of(experiment: Experiment, name: str) -> AcousticModel:
    return load_recogniser(experiment.checkpoints / f"{name}.pt").model


def numbers(module: nn.Module) -> int:
    """That a module would send: its parameters and floating-point buffers."""
    return sum(tensor.numel() for tensor in module.state_dict().values() if tensor.is_floating_point())


# The convolutions have layer norm; the layers behind the LSTM have BatchNorm, whose statistics training would move.
@pytest.mark.parametrize("frozen", [("CNN",), ("CNN", "DNN")])
def test_frozen_parts_neither_change_nor_travel(
    corpus: Corpus, prepared: Path, tmp_path: Path, frozen: tuple[str, ...]
) -> None:
    names = [f"encoder.crdnn.{part}" for part in frozen]
    experiment = begun(corpus, prepared, tmp_path / "run", f"federation.frozen=[{','.join(names)}]")
    state = run(experiment)
    start, result = model_of(experiment, "warm_start"), model_of(experiment, "federated")
    left = numbers(start) - sum(numbers(start.get_submodule(name)) for name in names)
    assert len(state.weights) == left < layout(start).length
    for record in state.history:
        asked = len(record.workers)
        assert record.bytes_down == asked * (4 * left + HEADER), "float32 to each worker"
        assert 3 * left < record.bytes_up / asked < 5.1 * left + HEADER, "one exact sum from each, packed"
        assert record.clients == 5 and record.failures == {}
    after = result.state_dict()
    for name, before in start.state_dict().items():
        within = any(name.startswith(f"{each}.") for each in names)
        assert torch.equal(before, after[name]) or not within, name
    freeze(start, names)
    assert (state.weights != read_state(start)).mean() > 0.5, "the rest has been trained"


def test_a_frozen_model_personalises_what_it_has_trained(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    changes = ("personalise=true", "federation.rounds=1", "federation.clients.dev_min_utterances=2")
    frozen = "federation.frozen=[encoder]"
    experiment = begun(corpus, prepared, tmp_path / "run", frozen, "personalisation.part=full", *changes)
    states = []
    with Workers(InlinePool(functools.partial(open_worker, str(experiment.run_dir))), 1) as workers:
        states.append(run_federation(experiment, workers))
        (experiment.run_dir / "personalisation.csv").unlink()
        states.append(run_federation(experiment, workers))  # all rounds are there: nodes join for this alone
    np.testing.assert_array_equal(*(state.best_weights for state in states))
    assert (experiment.run_dir / "personalisation.csv").is_file()


def test_workers_of_another_base_do_not_take_part(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    experiment = begun(corpus, prepared, tmp_path / "run", "federation.frozen=[encoder]")
    with Workers(InlinePool(functools.partial(open_worker, str(experiment.run_dir))), 1) as workers:
        other = load_recogniser(experiment.checkpoints / "warm_start.pt")
        with torch.no_grad():
            next(other.model.encoder.parameters()).add_(1e-3)
        save_recogniser(other, experiment.checkpoints / "warm_start.pt")  # behind the workers' back
        assert frozen_sha256(other.model) == ""  # nothing is frozen before the rounds
        with pytest.raises(Refused, match="another .* frozen base than this node was opened with"):
            run_federation(experiment, workers)


def test_a_part_that_is_not_there_is_refused_before_any_work(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no part 'encoder.cnn'. Did you mean 'encoder.crdnn"):
        begun(corpus, prepared, tmp_path / "run", "federation.frozen=[encoder.cnn]")
