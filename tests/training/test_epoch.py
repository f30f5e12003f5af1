"""Gradient steps: the gradient is clipped, and a bad one skipped; what is asked for is in the loss."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from asr_fed.config.schema import AugmentConfig, BatchConfig, Precision
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.model.state import layout, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.randomness import seed_everything
from asr_fed.training.epoch import EpochResult, TrainingContext, train_epoch

STILL = AugmentConfig(time_drops=0, frequency_drops=0)


@pytest.fixture
def speech(experiment: Experiment) -> Sequence[Utterance]:
    return experiment.partition.warm_up


def sgd(context: TrainingContext, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(context.recogniser.model.parameters(), lr=lr)


def run(
    context: TrainingContext, speech: Sequence[Utterance], clip: float = 5.0, lr: float = 0.1, **more
) -> EpochResult:
    rng = seed_everything(1, "test")
    batches = training_batches(speech, BatchConfig(4), rng)
    return train_epoch(context, batches, sgd(context, lr), rng, clip=clip, **more)


def moved(context: TrainingContext, before: np.ndarray) -> np.ndarray:
    cut = layout(context.recogniser.model).parameters
    return (read_state(context.recogniser.model) - before)[:cut]


def test_an_epoch_goes_through_all_utterances_once(context: TrainingContext, speech: Sequence[Utterance]) -> None:
    result = run(context, speech)
    assert (result.utterances, result.steps, result.skipped) == (len(speech), -(-len(speech) // 4), 0)
    assert 0 < result.loss < 100


def test_the_loss_falls(context: TrainingContext, speech: Sequence[Utterance]) -> None:
    losses = [run(context, speech, lr=0.3).loss for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_is_no_longer_than_lr_times_clip(context: TrainingContext, speech: Sequence[Utterance]) -> None:
    before = read_state(context.recogniser.model)
    result = run(context, speech[:3], clip=0.01, lr=2.0)
    assert result.steps == 1
    assert np.linalg.norm(moved(context, before)) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    context: TrainingContext, speech: Sequence[Utterance]
) -> None:
    before = read_state(context.recogniser.model)
    poison = iter([1.0, float("nan"), 1.0])
    result = run(
        context, speech[:12], penalty=lambda model: next(poison) * sum(p.sum() * 0 for p in model.parameters())
    )
    assert (result.steps, result.skipped) == (3, 1)
    assert np.isfinite(moved(context, before)).all() and moved(context, before).any()
    assert np.isfinite(result.loss)


def test_the_rate_of_each_step_can_be_scheduled(context: TrainingContext, speech: Sequence[Utterance]) -> None:
    asked: list[int] = []
    before = read_state(context.recogniser.model)

    def never(step: int) -> float:
        asked.append(step)
        return 0.0

    rng = seed_everything(1, "test")
    batches = training_batches(speech, BatchConfig(4), rng)
    train_epoch(context, batches, sgd(context, lr=9.0), rng, clip=5.0, lr=never)
    assert asked == list(range(len(batches)))
    assert not moved(context, before).any()


def test_without_ctc_its_head_stays(context: TrainingContext, speech: Sequence[Utterance]) -> None:
    head = context.recogniser.model.ctc_head.w.weight
    before = head.detach().clone()
    run(context, speech, with_ctc=False)
    assert torch.equal(head, before)
    run(context, speech, with_ctc=True)
    assert not torch.equal(head, before)


def test_augmentation_changes_training_and_a_seed_repeats_it(
    experiment: Experiment, context: TrainingContext, speech: Sequence[Utterance]
) -> None:
    def trained(augment: AugmentConfig) -> bytes:
        fresh = experiment.training_context(experiment.fresh_recogniser(), torch.device("cpu"))
        run(replace(fresh, augment=augment), speech)
        return read_state(fresh.recogniser.model).tobytes()

    assert trained(context.augment) == trained(context.augment)
    assert trained(context.augment) != trained(STILL)


def test_bf16_trains_fp32_weights(
    experiment: Experiment, context: TrainingContext, speech: Sequence[Utterance]
) -> None:
    half = replace(context, precision=Precision.bf16, augment=STILL)
    result = run(half, speech)
    assert result.skipped == 0
    fresh = experiment.training_context(experiment.fresh_recogniser(), torch.device("cpu"))
    full = run(replace(fresh, augment=STILL), speech)
    assert result.loss == pytest.approx(full.loss, rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in half.recogniser.model.parameters())


def test_an_epoch_without_a_finite_loss_has_no_loss_rather_than_a_perfect_one() -> None:
    assert math.isnan(EpochResult(steps=3, skipped=3).loss)
    assert EpochResult(loss_sum=6.0, utterances=3).loss == 2.0
