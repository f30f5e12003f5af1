"""A training that has learned nothing says so, and what to try for the settings that it had."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr_fed.federation.state import FederationState
from asr_fed.model.recogniser import save_recogniser
from asr_fed.pipeline.stuck import describe_no_gain, describe_stuck
from asr_fed.pipeline.train import centrally, federate
from asr_fed.reporting.progress import RunProgress
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.runs.run_dir import begin_run, claim_run_dir
from asr_fed.training.annealing import NewBob
from asr_fed.training.central import EpochReport
from tests.tiny import Corpus, settings, typed_config

STUCK = EpochReport(epoch=40, loss=2.7, lr=0.001, wer=98.0, best_wer=96.8, annealed_lr=0.0005, steps=680)


def test_what_to_try_follows_from_the_settings() -> None:
    bare = typed_config({}, "warm_start.lr=0.002", "loss.ctc_weight=0.0")
    told = describe_stuck("warm_start", STUCK, bare)
    order = ["96.8", "subtract_mean", "warm_start.annealing.factor=1", "ctc_weight", "680 steps", "warm_up_speakers"]
    assert [told.find(word) for word in order] == sorted(told.find(word) for word in order) and "-1" not in told
    assert all(word in told for word in order)
    good = typed_config({}, "central.lr=0.0005", "features.subtract_mean=true")
    told = describe_stuck("central", replace(STUCK, steps=9000), good)
    assert not any(word in told for word in order[1:]) and "central.lr" in told


def test_it_is_silent_where_something_is_recognised() -> None:
    assert describe_stuck("warm_start", replace(STUCK, best_wer=61.0), typed_config({})) == ""


@pytest.mark.parametrize(("epochs", "times"), [(2, 1), (10, 2)])
def test_a_warm_start_says_it_at_its_end_and_a_long_one_halfway_too(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: int, times: int
) -> None:
    settings = typed_config({}, f"warm_start.epochs={epochs}", "warm_start.lr=1e-9").warm_start
    own = replace(experiment, run_dir=tmp_path, config=replace(experiment.config, warm_start=settings))
    with RunProgress() as progress:
        centrally(own, own.fresh_recogniser(), own.partition.warm_up[:2], settings, "warm_start", progress)
    assert capsys.readouterr().out.count("next to nothing is recognised") == times


def test_a_federation_that_gains_nothing_says_so(
    corpus: Corpus, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a run that diverged looks like one that changed nothing: its best weights are the start's."""
    still = ("federation.rounds=1", "federation.lr=1e-12", "federation.held_out.epochs=0", "engine.workers=1")
    config = typed_config(settings(corpus, prepared, tmp_path / "run"), *still)
    with claim_run_dir(config), RunProgress() as progress:
        experiment = prepare_experiment(config)
        begin_run(config)
        save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
        state = federate(experiment, progress)
    assert state.best_round == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "none of 1 rounds was better on the dev speakers than the start" in told and "1e-12" in told


def test_momentum_is_named_where_updates_are_stale() -> None:
    weights = np.zeros(1, np.float32)
    lost = FederationState(NewBob(0.1), weights, weights, best_wer=50.0, loss=1.0, round=3)
    momentum = {"server": {"_target_": "asr_fed.aggregation.server_optimizer.FedAvgM", "server_momentum": 0.7}}
    asynchronous = typed_config(momentum, "federation.buffer=2")
    assert "server=fed_avg " in describe_no_gain(lost, asynchronous)
    assert "server=fed_avg " not in describe_no_gain(lost, typed_config(momentum))
    assert "replay_warm_up" in describe_no_gain(lost, asynchronous)
    replaying = typed_config(momentum, "federation.held_out.replay_warm_up=true")
    assert "replay_warm_up" not in describe_no_gain(lost, replaying)
    assert describe_no_gain(replace(lost, best_round=2), asynchronous) == ""


@pytest.mark.parametrize(("usual", "told"), [(2e-5, True), (2e-2, False)])
def test_an_adaptive_server_that_adapts_nothing_is_told_its_tau(usual: float, told: bool) -> None:
    weights = np.zeros(3, np.float32)
    config = typed_config({"server": {"_target_": "asr_fed.aggregation.server_optimizer.FedAdam", "tau": 0.001}})
    lost = FederationState(NewBob(0.1), weights, weights, best_wer=50.0, loss=1.0, round=3)
    lost = replace(lost, optimizer={"m": weights, "v": np.array([0.0, usual**2, 1.0]), "steps": 3})
    assert ("server.tau=2e-06 (the root of v is 2e-05" in describe_no_gain(lost, config)) is told
    assert "tau" not in describe_no_gain(
        lost, typed_config({"server": {"_target_": "asr_fed.aggregation.server_optimizer.Lamb"}})
    )
