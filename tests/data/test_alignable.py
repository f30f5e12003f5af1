"""Transcripts that CTC cannot align are found before training, counted and named, and are in no loss and no weight."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import AugmentConfig, LossConfig
from asr_fed.data.alignable import (
    NOTHING_TO_TRAIN_ON,
    TOO_MANY_TOKENS,
    alignable,
    describe_impossible,
    keep_alignable,
    states_needed,
)
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance, read_manifest, write_manifest
from asr_fed.data.partition import Client, Partition
from asr_fed.data.partition_files import read_partition
from asr_fed.federation.client_app import client_size
from asr_fed.federation.totals import client_totals
from asr_fed.model.backbone import count_states
from asr_fed.model.encoder import Encoder, stride
from asr_fed.model.state import read_state
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.system.errors import UserError
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.epoch import train_epoch
from asr_fed.training.local import LocalTask, train_client
from tests.tiny import Corpus, random_batch, settings, tiny_model_config, typed_config

LONG = " ".join(["ba du ki mo ne ra su ti"] * 40)  # in any of the corpus's recordings


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(1, 16))
def test_ctc_has_a_finite_loss_where_there_are_as_many_states_as_needed(tokens: list[int], states: int) -> None:
    log_probs = torch.zeros(states, 1, 4).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(
        log_probs, torch.tensor([tokens]), torch.tensor([states]), torch.tensor([len(tokens)])
    )
    assert math.isfinite(loss) == (states >= states_needed(tokens))


@pytest.mark.parametrize(
    "shape", [{}, {"pool_2d": False, "time_pooling": 3}, {"cnn_channels": [4, 4, 4], "time_pooling": 2}]
)
def test_the_stride_is_that_of_the_encoder(shape: dict[str, object]) -> None:
    config = tiny_model_config(**shape)
    encoder = Encoder.create(config, 16).eval()
    frames = torch.tensor([97])
    _, states = encoder(torch.zeros(1, 97, 16), frames)
    assert encoder.stride == stride(config) and int(states) == -(-97 // stride(config))


@pytest.fixture
def fits(context: Recognition):
    recogniser = context.recogniser
    return alignable(context.cache, recogniser.tokenizer, partial(count_states, recogniser.model_config))


def impossible(utterance: Utterance) -> Utterance:
    return replace(utterance, text=LONG)


def test_they_leave_every_part_but_dev_and_test(experiment: Experiment, fits) -> None:
    partition = experiment.partition
    assert keep_alignable(partition, fits) is partition and describe_impossible(partition) == ""
    owner, other, *rest = partition.clients
    bad = replace(
        partition,
        warm_up=(impossible(partition.warm_up[0]), *partition.warm_up[1:]),
        dev=tuple(map(impossible, partition.dev)),
        test=tuple(map(impossible, partition.test)),
        clients=(Client(owner.id, (impossible(owner.train[0]),), owner.train[1:]), other, *rest),
    )
    kept = keep_alignable(bad, fits)
    assert (kept.warm_up, kept.dev, kept.test) == (bad.warm_up[1:], bad.dev, bad.test)
    assert kept.clients == bad.clients[1:], "one that has nothing left to train on goes with it"
    assert set(kept.utterances) == set(bad.utterances)
    assert set(kept.dropped[TOO_MANY_TOKENS]) == {bad.warm_up[0], *bad.clients[0].train}
    assert kept.dropped[NOTHING_TO_TRAIN_ON] == bad.clients[0].dev
    told = describe_impossible(kept)
    assert told.startswith("2 of ") and bad.warm_up[0].id in told and "%" in told


def test_where_most_do_not_fit_the_model_is_to_blame(experiment: Experiment, fits) -> None:
    partition = experiment.partition
    third = tuple(impossible(u) if index % 3 == 0 else u for index, u in enumerate(partition.warm_up))
    bad = Partition(third, (), partition.dev, partition.test, ())
    with pytest.raises(UserError, match=r"features\.hop_ms.*tokenizer"):
        keep_alignable(bad, fits)
    assert keep_alignable(bad, fits, most=0.5).dropped[TOO_MANY_TOKENS]
    with pytest.raises(UserError):
        keep_alignable(replace(bad, warm_up=bad.warm_up[:1]), fits, most=1.0)


def test_a_run_finds_them_before_it_trains_and_again_when_it_is_resumed(
    experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path
) -> None:
    partition = experiment.partition
    bad = {partition.warm_up[0].id, partition.clients[-1].train[0].id, partition.test[0].id}
    manifest = [impossible(u) if u.id in bad else u for u in read_manifest(prepared / "manifest.csv")]
    write_manifest(tmp_path / "prepared" / "manifest.csv", manifest)
    content = settings(corpus, tmp_path / "prepared", tmp_path / "run")
    content["data"]["prepare"] = None
    config = typed_config(content)
    found = prepare_experiment(config)
    dropped = found.partition.dropped[TOO_MANY_TOKENS]
    assert {utterance.id for utterance in dropped} == bad - {partition.test[0].id}
    assert read_partition(tmp_path / "run" / "partition") == found.partition
    assert prepare_experiment(config).partition == found.partition
    before, after = (client_size(each.partition.clients[-1]).examples for each in (experiment, found))
    assert after == before - 1
    content["loss"] = {"ctc_weight": 0.0}  # the attention decoder takes them
    content["run_dir"] = str(tmp_path / "attention")
    assert not prepare_experiment(typed_config(content)).partition.dropped


def test_one_that_slips_through_is_no_perfect_loss(context: Recognition, experiment: Experiment) -> None:
    good, bad = experiment.partition.warm_up[0], impossible(experiment.partition.warm_up[1])
    batch = random_batch([80, 8], context.recogniser.tokenizer)
    with torch.no_grad():
        loss = context.recogniser.model.loss(batch.features, batch, context.loss_config, with_ctc=True)
    assert loss == math.inf
    optimizer = torch.optim.SGD(context.recogniser.model.parameters(), 0.1)
    before = read_state(context.recogniser.model).tobytes()
    result = train_epoch(context, [[good, bad]], optimizer, np.random.default_rng(1), clip=5.0)
    assert (result.utterances, result.skipped) == (0, 1) and math.isnan(result.loss)
    assert all(torch.isfinite(parameter).all() for parameter in context.recogniser.model.parameters())
    result = train_epoch(context, [[good], [bad]], optimizer, np.random.default_rng(1), clip=5.0)
    assert (result.utterances, result.skipped) == (1, 1) and result.loss > 0
    assert read_state(context.recogniser.model).tobytes() != before


def test_the_loss_of_dev_speech_leaves_them_out(context: Recognition, experiment: Experiment) -> None:
    """Dev speech keeps them for its WER. Every client refuses an order with an infinite loss of it."""
    dev = experiment.partition.dev
    with_bad = [impossible(dev[0]), *dev[1:]]
    assert context.mean_loss(with_bad) == pytest.approx(context.mean_loss(dev[1:]))
    assert context.mean_loss(with_bad[:1]) == 0
    attention = replace(context, loss_config=LossConfig(ctc_weight=0))
    assert 0 < attention.mean_loss(with_bad) < math.inf
    assert attention.mean_loss(with_bad) != pytest.approx(attention.mean_loss(dev[1:]))


def test_a_client_of_nothing_else_has_no_weight(context: Recognition, experiment: Experiment) -> None:
    client = experiment.partition.clients[0]
    config = typed_config({}, "federation.local_epochs=1")
    poor, weights = Client("poor", tuple(map(impossible, client.train)), ()), read_state(context.recogniser.model)
    result = train_client(LocalTask(context, poor, weights, 0.1, 1, 1, config.federation))
    with pytest.raises(Exception, match="loss of nan"):
        client_totals(result)


def test_what_is_too_fast_when_played_faster_is_played_as_it_was_spoken(
    context: Recognition, experiment: Experiment, fits
) -> None:
    utterance = experiment.partition.warm_up[0]
    cache = context.cache
    needed = states_needed(context.recogniser.tokenizer.encode(utterance.text))
    frames = [needed * context.recogniser.model.encoder.stride - 8]  # of the utterance at twice its speed
    read: list[float] = []

    @dataclass(frozen=True)
    class Watched(FeatureCache):
        def __getitem__(self, key: tuple[str, float]) -> np.ndarray:
            read.append(key[1])
            return super().__getitem__((key[0], 1.0))

        def frames(self, utterance_id: str, speed: float) -> int:
            return frames[0] if speed == 2.0 else super().frames(utterance_id, speed)

        def silence(self, utterance_id: str, speed: float) -> np.ndarray:
            return super().silence(utterance_id, 1.0)

    twice = replace(context, cache=Watched(**vars(cache)), augment=AugmentConfig(speeds=[2.0]))
    optimizer = torch.optim.SGD(context.recogniser.model.parameters(), 0.1)
    result = train_epoch(twice, [[utterance]], optimizer, np.random.default_rng(1), clip=5.0)
    assert (result.skipped, read) == (0, [1.0])
    frames[0] = cache.frames(utterance.id, 1.0)
    train_epoch(twice, [[utterance]], optimizer, np.random.default_rng(1), clip=5.0)
    assert read == [1.0, 2.0]
