"""Central training: it learns, anneals, keeps its best, stops, and goes on after an interruption as if nothing was."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_fed.config.schema import CentralConfig
from asr_fed.data.features import FeatureCache
from asr_fed.model.state import read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.checkpoint import load_checkpoint
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.central import CentralState, EpochReport, train_central
from tests.tiny import typed_config


class Interrupted(Exception):
    pass


@dataclass(frozen=True)
class FailingCache(FeatureCache):
    """Breaks at its first reading of one utterance after `allow` others."""

    allow: int

    def __getitem__(self, key: tuple[str, float]) -> np.ndarray:
        object.__setattr__(self, "allow", self.allow - 1)
        if self.allow < 0:
            raise Interrupted
        return super().__getitem__(key)


def central_config(*changes: str) -> CentralConfig:
    defaults = ["central.epochs=3", "central.lr=0.01", "central.batch.max_utterances=4"]
    return typed_config({}, *defaults, *changes).central


def fresh(experiment: Experiment) -> Recognition:
    return experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))


def run(experiment: Experiment, context: Recognition, config: CentralConfig, checkpoint: Path, **more) -> CentralState:
    return train_central(
        context,
        experiment.partition.warm_up,
        experiment.partition.dev,
        config,
        seed=3,
        name="test",
        checkpoint=checkpoint,
        **more,
    )


OPTIMIZERS = {
    "Adam": [],
    "Adadelta": ["central.optimizer._target_=torch.optim.Adadelta", "central.lr=1.0"],
    "SGD": ["central.optimizer={_target_: torch.optim.SGD, momentum: 0.9}", "central.lr=0.1"],
}


OPTIONS = OPTIMIZERS | {"mean of two": ["central.average_last=2"]}


@pytest.mark.parametrize("name", OPTIONS)
def test_interrupted_after_each_epoch_it_ends_in_the_same_bits(
    experiment: Experiment, tmp_path: Path, name: str
) -> None:
    config = central_config(*OPTIONS[name], "central.warmup_steps=4", "central.decay_from=0.5")
    straight = fresh(experiment)
    reports: list[EpochReport] = []
    expected = run(experiment, straight, config, tmp_path / "straight.pt", on_epoch=reports.append)

    def interrupt(report: EpochReport) -> None:
        resumed.append(report)
        raise Interrupted

    resumed: list[EpochReport] = []
    kept: list[EpochReport] = []
    for _ in range(config.epochs):
        with pytest.raises(Interrupted):
            run(experiment, fresh(experiment), config, tmp_path / "resumed.pt", on_epoch=interrupt)
    last = fresh(experiment)
    state = run(experiment, last, config, tmp_path / "resumed.pt", on_epoch=interrupt, keep=kept.extend)
    assert resumed == reports == kept and [report.epoch for report in reports] == [1, 2, 3]
    assert state.weights.tobytes() == expected.weights.tobytes()
    assert read_state(last.recogniser.model).tobytes() == read_state(straight.recogniser.model).tobytes()
    assert (state.newbob, state.best_wer, state.best_epoch) == (expected.newbob, expected.best_wer, expected.best_epoch)


def test_interrupted_in_the_middle_of_an_epoch_it_repeats_that_epoch(experiment: Experiment, tmp_path: Path) -> None:
    config = central_config("central.epochs=2")
    expected = run(experiment, fresh(experiment), config, tmp_path / "straight.pt")
    broken = fresh(experiment)
    one_epoch = len(experiment.partition.warm_up) + len(experiment.partition.dev)
    cache = FailingCache(**vars(experiment.cache), allow=one_epoch + 5)
    with pytest.raises(Interrupted):
        run(experiment, Recognition(**{**vars(broken), "cache": cache}), config, tmp_path / "resumed.pt")
    assert load_checkpoint(tmp_path / "resumed.pt")["epoch"] == 1
    state = run(experiment, fresh(experiment), config, tmp_path / "resumed.pt")
    assert state.weights.tobytes() == expected.weights.tobytes()


def test_it_learns_and_leaves_the_best_epoch_in_the_model(experiment: Experiment, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    snapshots: list[bytes] = []
    context = fresh(experiment)

    def on_epoch(report: EpochReport) -> None:
        reports.append(report)
        snapshots.append(read_state(context.recogniser.model).tobytes())

    state = run(experiment, context, central_config("central.epochs=5"), tmp_path / "c.pt", on_epoch=on_epoch)
    assert reports[-1].loss < 0.9 * reports[0].loss
    wers = [report.wer for report in reports]
    assert None not in wers
    best = min(range(5), key=lambda index: (wers[index], index))
    assert (state.best_epoch, state.best_wer) == (best + 1, wers[best])
    assert read_state(context.recogniser.model).tobytes() == state.weights.tobytes() == snapshots[best]


@pytest.mark.parametrize(("last", "epochs"), [("2", 2), ("0.5", 2), ("0.01", 1), ("1.0", 4)])
def test_it_leaves_the_mean_of_the_last_epochs_in_the_model(
    experiment: Experiment, tmp_path: Path, last: str, epochs: int
) -> None:
    snapshots: list[np.ndarray] = []
    context = fresh(experiment)
    config = central_config("central.epochs=4", f"central.average_last={last}")

    def on_epoch(report: EpochReport) -> None:
        snapshots.append(read_state(context.recogniser.model))

    run(experiment, context, config, tmp_path / "c.pt", on_epoch=on_epoch)
    mean = np.mean(snapshots[-epochs:], axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(read_state(context.recogniser.model), mean)


def test_the_learning_rate_rises_linearly_then_falls_linearly(experiment: Experiment, tmp_path: Path) -> None:
    """Eleven utterances in batches of four are three steps an epoch; NewBob's factor of 1 is out of the way."""
    config = central_config(
        "central.epochs=4", "central.warmup_steps=6", "central.decay_from=0.5", "central.annealing.factor=1.0"
    )
    reports: list[EpochReport] = []
    run(experiment, fresh(experiment), config, tmp_path / "c.pt", on_epoch=reports.append)
    # the last step of each epoch: 3/6 of the rise, its end, then (12 - 8)/6 and (12 - 11)/6 of the fall
    expected = [0.01 * scale for scale in (3 / 6, 1.0, 4 / 6, 1 / 6)]
    np.testing.assert_allclose([report.lr for report in reports], expected, rtol=1e-9)


def test_the_fall_may_follow_a_cosine(experiment: Experiment, tmp_path: Path) -> None:
    config = central_config("central.decay_from=0", "central.decay=cosine", "central.annealing.factor=1.0")
    reports: list[EpochReport] = []
    run(experiment, fresh(experiment), config, tmp_path / "c.pt", on_epoch=reports.append)
    # the last step of each epoch, steps 2, 5 and 8 of 9
    expected = [0.01 * (1 + np.cos(np.pi * step / 9)) / 2 for step in (2, 5, 8)]
    np.testing.assert_allclose([report.lr for report in reports], expected, rtol=1e-9)


def test_newbob_lowers_the_rate_on_a_wer_that_stands_still(experiment: Experiment, tmp_path: Path) -> None:
    still = ("central.lr=1e-9", "central.epochs=4", "central.annealing.factor=0.5")
    config = central_config(*still, "central.annealing.ceiling=1000.0")
    reports: list[EpochReport] = []
    state = run(experiment, fresh(experiment), config, tmp_path / "c.pt", on_epoch=reports.append)
    assert len({report.wer for report in reports}) == 1 and state.best_epoch == 1, "of equals the first is the best"
    assert [report.lr for report in reports] == [1e-9, 1e-9, 0.5e-9, 0.25e-9]


def test_it_stops_early_and_evaluates_as_often_as_told(experiment: Experiment, tmp_path: Path) -> None:
    still = ("central.lr=1e-9", "central.epochs=9")
    reports: list[EpochReport] = []
    config = central_config(*still, "central.early_stop=2")
    run(experiment, fresh(experiment), config, tmp_path / "a.pt", on_epoch=reports.append)
    assert [report.epoch for report in reports] == [1, 2, 3]
    again = run(experiment, fresh(experiment), config, tmp_path / "a.pt", on_epoch=reports.append)
    assert len(reports) == 3 and again.epoch == 3  # a finished training is not taken up
    reports.clear()
    config = central_config("central.epochs=5", "central.evaluate_every=2")
    run(experiment, fresh(experiment), config, tmp_path / "b.pt", on_epoch=reports.append)
    assert [report.wer is not None for report in reports] == [False, True, False, True, True]


def test_ctc_takes_part_in_as_many_epochs_as_told(experiment: Experiment, tmp_path: Path) -> None:
    heads: list[torch.Tensor] = []
    context = fresh(experiment)
    head = context.recogniser.model.ctc_head.w.weight

    def on_epoch(report: EpochReport) -> None:
        heads.append(head.detach().clone())

    run(experiment, context, central_config("central.ctc_epochs=1"), tmp_path / "c.pt", on_epoch=on_epoch)
    first, second, third = heads
    assert torch.equal(first, second) and torch.equal(second, third)
    assert not torch.equal(first, fresh(experiment).recogniser.model.ctc_head.w.weight)


def test_no_epochs_leave_the_model_as_it_is(experiment: Experiment, tmp_path: Path) -> None:
    context = fresh(experiment)
    before = read_state(context.recogniser.model).tobytes()
    run(experiment, context, central_config("central.epochs=0"), tmp_path / "c.pt")
    assert read_state(context.recogniser.model).tobytes() == before
