"""Gradient steps: the gradient is clipped, and a bad one skipped; what is asked for is in the loss."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch

from asr_fed.config.schema import AugmentConfig, BatchConfig, Precision
from asr_fed.data.batching import training_batches
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.model.state import layout, load_state, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.randomness import seed_everything
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.epoch import EpochResult, train_epoch
from tests.tiny import tiny_recogniser

STILL = AugmentConfig(time_drops=0, frequency_drops=0, pauses=0)


@pytest.fixture
def speech(experiment: Experiment) -> Sequence[Utterance]:
    return experiment.partition.warm_up


def sgd(context: Recognition, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(context.recogniser.model.parameters(), lr=lr)


def run(context: Recognition, speech: Sequence[Utterance], clip: float = 5.0, lr: float = 0.1, **more) -> EpochResult:
    rng = seed_everything(1, "test")
    batches = training_batches(speech, BatchConfig(4), rng)
    return train_epoch(context, batches, sgd(context, lr), rng, clip=clip, **more)


def moved(context: Recognition, before: np.ndarray) -> np.ndarray:
    cut = layout(context.recogniser.model).parameters
    return (read_state(context.recogniser.model) - before)[:cut]


def test_an_epoch_goes_through_all_utterances_once(context: Recognition, speech: Sequence[Utterance]) -> None:
    result = run(context, speech)
    assert (result.utterances, result.steps, result.skipped) == (len(speech), -(-len(speech) // 4), 0)
    assert 0 < result.loss < 100


def test_a_loss_is_the_mean_over_utterances_not_over_batches(context: Recognition, speech: Sequence[Utterance]) -> None:
    def loss(*batches: Sequence[Utterance]) -> float:
        """Without a step, nor any dropout or augmentation."""
        still = replace(context, recogniser=tiny_recogniser(dropout=0.0), augment=STILL)
        return train_epoch(still, batches, sgd(still, lr=0.0), seed_everything(1, "test"), clip=5.0).loss

    many, few = speech[:6], speech[6:8]
    # Only BatchNorm makes a difference between a batch and its utterances one by one.
    assert loss(many) == pytest.approx(fmean(loss([each]) for each in many), rel=0.3)
    assert loss(many) != loss(few)
    assert loss(many, few) == pytest.approx((6 * loss(many) + 2 * loss(few)) / 8, rel=1e-6)


def test_steps_do_not_add_up_their_gradients(context: Recognition, speech: Sequence[Utterance]) -> None:
    """Two batches in one epoch move the weights as the second does after the first has."""
    recogniser = tiny_recogniser(dropout=0.0)
    still = replace(context, recogniser=recogniser, augment=STILL)

    def trained(start: np.ndarray, *batches: Sequence[Utterance]) -> np.ndarray:
        recogniser.model.zero_grad(set_to_none=True)
        load_state(recogniser.model, start)
        train_epoch(still, batches, sgd(still), seed_everything(1, "test"), clip=1e9)
        return read_state(recogniser.model)

    start = read_state(recogniser.model)
    first = trained(start, speech[:4])
    assert trained(start, speech[:4], speech[4:8]).tobytes() == trained(first, speech[4:8]).tobytes()


def test_training_hears_speech_as_the_normaliser_makes_it(context: Recognition, speech: Sequence[Utterance]) -> None:
    """Features twice as far from their mean, with twice the deviation, are the same to the model."""

    class Doubled(FeatureCache):
        def __getitem__(self, key: tuple[str, float]) -> np.ndarray:
            return 2 * super().__getitem__(key).astype(np.float32)

        def silence(self, utterance_id: str, speed: float) -> np.ndarray:
            return 2 * super().silence(utterance_id, speed).astype(np.float32)

    model = context.recogniser.model
    before, mean, deviation = read_state(model), model.feature_mean.numpy().copy(), model.feature_deviation.numpy()
    plain = run(context, speech).loss
    load_state(model, before)
    model.set_normaliser(2 * mean, 2 * deviation.copy())
    assert run(replace(context, cache=Doubled(**vars(context.cache))), speech).loss == pytest.approx(plain, rel=1e-4)


def test_training_draws_a_speed_for_each_utterance(context: Recognition, speech: Sequence[Utterance]) -> None:
    """The cache of this test holds no other."""
    heard: list[float] = []

    class Noting(FeatureCache):
        def __getitem__(self, key: tuple[str, float]) -> np.ndarray:
            heard.append(key[1])
            return super().__getitem__(key)

    speeds = [0.9, 1.1]
    cache = Noting(context.cache.folder, dict.fromkeys(speeds, context.cache.shards[1.0]))
    run(replace(context, cache=cache, augment=replace(STILL, speeds=speeds)), speech)
    assert set(heard) == {0.9, 1.1} and len(heard) == len(speech)


def test_the_loss_falls(context: Recognition, speech: Sequence[Utterance]) -> None:
    losses = [run(context, speech, lr=0.3).loss for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_is_no_longer_than_lr_times_clip(context: Recognition, speech: Sequence[Utterance]) -> None:
    before = read_state(context.recogniser.model)
    result = run(context, speech[:3], clip=0.01, lr=2.0)
    assert result.steps == 1
    assert np.linalg.norm(moved(context, before)) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    context: Recognition, speech: Sequence[Utterance]
) -> None:
    before = read_state(context.recogniser.model)
    poison = iter([1.0, float("nan"), 1.0])
    result = run(
        context, speech[:12], penalty=lambda model: next(poison) * sum(p.sum() * 0 for p in model.parameters())
    )
    assert (result.steps, result.skipped) == (3, 1)
    assert np.isfinite(moved(context, before)).all() and moved(context, before).any()
    assert np.isfinite(result.loss)


def test_the_rate_of_each_step_can_be_scheduled(context: Recognition, speech: Sequence[Utterance]) -> None:
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


def test_without_ctc_its_head_stays(context: Recognition, speech: Sequence[Utterance]) -> None:
    head = context.recogniser.model.ctc_head.w.weight
    before = head.detach().clone()
    run(context, speech, with_ctc=False)
    assert torch.equal(head, before)
    run(context, speech, with_ctc=True)
    assert not torch.equal(head, before)


def test_augmentation_changes_training_and_a_seed_repeats_it(
    experiment: Experiment, context: Recognition, speech: Sequence[Utterance]
) -> None:
    def trained(augment: AugmentConfig) -> bytes:
        fresh = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
        run(replace(fresh, augment=augment), speech)
        return read_state(fresh.recogniser.model).tobytes()

    assert trained(context.augment) == trained(context.augment)
    assert trained(context.augment) != trained(STILL)
    pauses, unlike = replace(STILL, pauses=1.0), trained(STILL)
    assert trained(pauses) == trained(pauses) != unlike


def test_bf16_trains_fp32_weights(experiment: Experiment, context: Recognition, speech: Sequence[Utterance]) -> None:
    half = replace(context, precision=Precision.bf16, augment=STILL)
    result = run(half, speech)
    assert result.skipped == 0
    fresh = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
    full = run(replace(fresh, augment=STILL), speech)
    assert result.loss == pytest.approx(full.loss, rel=0.05) and result.loss != full.loss
    assert all(parameter.dtype == torch.float32 for parameter in half.recogniser.model.parameters())


def test_an_epoch_without_a_finite_loss_has_no_loss_rather_than_a_perfect_one() -> None:
    assert math.isnan(EpochResult(steps=3, skipped=3).loss)
    assert EpochResult(loss_sum=6.0, utterances=3).loss == 2.0
