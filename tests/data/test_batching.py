"""Batches: every utterance once, limits kept, padding by zeros."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import BatchConfig
from asr_fed.data.batching import POOL_BATCHES, collate, consecutive_batches, evaluation_batches, training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.runs.experiment import Experiment

durations = st.lists(st.floats(0.5, 30), max_size=60)
limits = st.builds(BatchConfig, max_utterances=st.integers(1, 9), max_seconds=st.none() | st.floats(1, 60))


def spoken(seconds: list[float]) -> list[Utterance]:
    return [Utterance(f"u{i}", duration, "", "s", "") for i, duration in enumerate(seconds)]


def check_limits(batches: list[list[Utterance]], config: BatchConfig) -> None:
    for batch in batches:
        assert 1 <= len(batch) <= config.max_utterances
        if config.max_seconds is not None and len(batch) > 1:
            assert max(utterance.duration for utterance in batch) * len(batch) <= config.max_seconds


@given(durations, limits, st.integers(0, 9))
def test_training_batches_hold_every_utterance_once_within_the_limits(
    seconds: list[float], config: BatchConfig, seed: int
) -> None:
    utterances = spoken(seconds)
    batches = training_batches(utterances, config, np.random.default_rng(seed))
    assert sorted(u.id for batch in batches for u in batch) == sorted(u.id for u in utterances)
    check_limits(batches, config)


@given(durations, limits)
def test_evaluation_batches_hold_every_utterance_once_within_the_limits_shortest_first(
    seconds: list[float], config: BatchConfig
) -> None:
    utterances = spoken(seconds)
    batches = evaluation_batches(utterances, config)
    check_limits(batches, config)
    assert [u.duration for batch in batches for u in batch] == sorted(seconds)
    assert evaluation_batches(utterances[::-1], config) == batches


@given(durations, limits)
def test_consecutive_batches_keep_the_order_and_are_cut_no_earlier_than_needed(
    seconds: list[float], config: BatchConfig
) -> None:
    utterances = spoken(seconds)
    batches = consecutive_batches(utterances, config)
    check_limits(batches, config)
    assert [u for batch in batches for u in batch] == utterances
    for batch, following in pairwise(batches):
        grown = [*batch, following[0]]
        longest = max(u.duration for u in grown)
        too_long = config.max_seconds is not None and longest * len(grown) > config.max_seconds
        assert too_long or len(grown) > config.max_utterances


def test_epochs_differ_in_order_and_a_seed_repeats_them() -> None:
    utterances = spoken([1.0 + i / 10 for i in range(40)])
    rng = np.random.default_rng(1)
    first, second = (training_batches(utterances, BatchConfig(4), rng) for _ in range(2))
    again = training_batches(utterances, BatchConfig(4), np.random.default_rng(1))
    assert first == again != second


def test_epochs_differ_in_who_is_in_a_batch_with_whom() -> None:
    """More utterances than are sorted by length at a time: else neighbours in length would meet for ever."""
    utterances = spoken([1.0 + i / 100 for i in range(4 * 4 * POOL_BATCHES)])
    rng = np.random.default_rng(1)
    first, second = (
        {frozenset(u.id for u in batch) for batch in training_batches(utterances, BatchConfig(4), rng)}
        for _ in range(2)
    )
    assert len(first & second) < len(first) / 4


def test_a_batch_is_the_cached_frames_padded_with_zeros(experiment: Experiment) -> None:
    short, *_, long = sorted(experiment.partition.warm_up, key=lambda utterance: utterance.duration)
    batch = collate([long, short], experiment.cache, experiment.tokenizer)
    for row, utterance in enumerate((long, short)):
        frames = experiment.cache[utterance.id, 1.0]
        tokens = experiment.tokenizer.encode(utterance.text)
        assert batch.frames[row] == len(frames)
        assert batch.token_counts[row] == len(tokens)
        assert torch.equal(batch.features[row, : len(frames)], torch.from_numpy(frames.astype(np.float32)))
        assert not batch.features[row, len(frames) :].any()
        assert batch.tokens[row, : len(tokens)].tolist() == tokens
    assert batch.features.shape == (2, batch.frames.max(), 16)
    assert batch.features.dtype == torch.float32
    assert batch.frames[0] > batch.frames[1]


def test_one_speed_an_utterance_is_needed(experiment: Experiment) -> None:
    with pytest.raises(ValueError, match="zip|shorter|argument"):
        collate(experiment.partition.warm_up[:2], experiment.cache, experiment.tokenizer, [1.0])
