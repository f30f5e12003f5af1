"""A training that has learned nothing says so, and what to try for the settings that it had."""

from dataclasses import replace

import pytest

from asr_fed.pipeline.stuck import describe_stuck
from asr_fed.pipeline.train import centrally
from asr_fed.reporting.progress import RunProgress
from asr_fed.runs.experiment import Experiment
from asr_fed.training.central import EpochReport
from tests.tiny import typed_config

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
    experiment: Experiment, tmp_path, capsys: pytest.CaptureFixture[str], epochs: int, times: int
) -> None:
    settings = typed_config({}, f"warm_start.epochs={epochs}", "warm_start.lr=1e-9").warm_start
    own = replace(experiment, run_dir=tmp_path, config=replace(experiment.config, warm_start=settings))
    with RunProgress() as progress:
        centrally(own, own.fresh_recogniser(), own.partition.warm_up[:2], settings, "warm_start", progress)
    assert capsys.readouterr().out.count("next to nothing is recognised") == times
