"""A whole run in this process, with what each of its stages reads and which settings it works by.

A stage is known by the functions of asr_fed that are running. Workers are in this process too.
"""

import functools
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import asr_fed
from asr_fed.config.schema import AugmentConfig, Config, Decoder, EvaluationConfig, LossConfig
from asr_fed.data import features
from asr_fed.data.batching import Batch
from asr_fed.data.features import FeatureCache
from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import read_partition
from asr_fed.engines import open_workers
from asr_fed.evaluation import evaluate as evaluation
from asr_fed.model.recogniser import AcousticModel
from asr_fed.pipeline.train import train
from asr_fed.system import randomness
from asr_fed.tasks import recognition
from tests.federation.inline_pool import InlinePool

PACKAGE = str(Path(asr_fed.__file__).parent)

# Everything that may read speech; the first that fits counts. Whoever adds a stage adds it here, and to the tests what
# it may read.
STAGES = {
    "normaliser": ("feature_statistics",),
    "client training": ("train_client", "train_epoch"),
    "client dev": ("train_client", "evaluate"),
    "personalisation training": ("personalise_client", "train_epoch"),
    "personalisation dev": ("personalise_client", "evaluate"),
    "warm start training": ("warm_start", "train_epoch"),
    "warm start dev": ("warm_start", "evaluate"),
    "held-out training": ("train_on_server", "train_epoch"),
    "round dev": ("run_federation", "evaluate"),
    "reference loss": ("run_federation", "mean_loss"),
    "central training": ("reference", "train_epoch"),
    "central dev": ("reference", "evaluate"),
    "test": ("test", "evaluate"),
}


@dataclass
class Read:
    """One utterance's frames were read from the cache; `client` is for whom, where a worker did it."""

    stage: str
    utterance: str
    speed: float
    client: str = ""


@dataclass
class Recording:
    """What was noted of a run; `steps`, `batches` and `decoders` by stage.

    texts: what SentencePiece has learnt from.
    steps: what each step of an optimizer went by; batches: of how many utterances.
    draws: seeds of generators, with what they are for.
    """

    config: Config
    partition: Partition
    reads: list[Read] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    steps: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    batches: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    decoders: defaultdict[str, set[Decoder]] = field(default_factory=lambda: defaultdict(set))
    draws: list[tuple[int, tuple[int | str, ...]]] = field(default_factory=list)

    def utterances(self) -> dict[str, set[str]]:
        """Ids by stage; the stage of what was read for a client ends in its name."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for read in self.reads:
            found[f"{read.stage} {read.client}".strip()].add(read.utterance)
        return dict(found)

    def speeds(self) -> dict[str, set[float]]:
        found: defaultdict[str, set[float]] = defaultdict(set)
        for read in self.reads:
            found[read.stage].add(read.speed)
        return dict(found)


def stage() -> str:
    names, frame = set(), sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.add(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return next((name for name, functions in STAGES.items() if names.issuperset(functions)), "elsewhere")


def record(config: Config) -> Recording:
    """Run `config`, which has to be of worker processes on this machine."""
    recording = Recording(config, Partition((), (), (), (), ()))
    now: dict[str, Any] = {}
    hook = register_optimizer_step_pre_hook(functools.partial(_note_step, recording, now))
    try:
        with pytest.MonkeyPatch.context() as patch:
            _run_workers_here(recording, patch)
            _note_speech(recording, patch)
            _note_training(now, patch)
            _note_decoders_and_draws(recording, patch)
            train(config)
    finally:
        hook.remove()
    recording.partition = read_partition(Path(config.run_dir) / "partition")
    return recording


def _run_workers_here(recording: Recording, patch: pytest.MonkeyPatch) -> None:
    told = 0

    def a_message_comes() -> None:
        nonlocal told
        told = len(recording.reads)

    def a_client_is_done(client: str) -> None:
        for read in recording.reads[told:]:
            read.client = client
        a_message_comes()

    pool = functools.partial(InlinePool, on_message=a_message_comes, on_client=a_client_is_done)
    patch.setattr(open_workers, "LocalPool", pool)
    patch.setattr(features, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))


def _note_speech(recording: Recording, patch: pytest.MonkeyPatch) -> None:
    read, learn = FeatureCache.__getitem__, sentencepiece.SentencePieceTrainer.train

    def reading(cache: FeatureCache, key: tuple[str, float]) -> np.ndarray:
        recording.reads.append(Read(stage(), *key))
        return read(cache, key)

    def learning(*, sentence_iterator: Iterable[str], **more: Any) -> None:
        texts = list(sentence_iterator)
        recording.texts.update(texts)
        learn(sentence_iterator=iter(texts), **more)

    patch.setattr(FeatureCache, "__getitem__", reading)
    patch.setattr(sentencepiece.SentencePieceTrainer, "train", learning)


def _note_training(now: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """What the next step of an optimizer goes by."""
    lose, clip, change = AcousticModel.loss, torch.nn.utils.clip_grad_norm_, recognition.spec_augment

    def losing(model: AcousticModel, normalised: torch.Tensor, batch: Batch, config: LossConfig, **more: Any) -> Any:
        now.update(loss=config, precision="bf16" if torch.is_autocast_enabled("cpu") else "fp32")
        now.update(more, utterances=len(batch.utterances))
        return lose(model, normalised, batch, config, **more)

    def clipping(parameters: Any, max_norm: float, **more: Any) -> Any:
        now.update(clip=max_norm)
        return clip(parameters, max_norm, **more)

    def changing(frames: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
        now.update(augment=config)
        return change(frames, config)

    patch.setattr(AcousticModel, "loss", losing)
    patch.setattr(torch.nn.utils, "clip_grad_norm_", clipping)
    patch.setattr(recognition, "spec_augment", changing)


def _note_step(recording: Recording, now: dict[str, Any], optimizer: torch.optim.Optimizer, *_: Any) -> None:
    [lr] = {group["lr"] for group in optimizer.param_groups}
    rest = {key: value for key, value in now.items() if key != "utterances"}
    recording.steps[stage()].append({"optimizer": type(optimizer).__name__, "lr": lr, **rest})
    recording.batches[stage()].append(now["utterances"])
    now.clear()


def _note_decoders_and_draws(recording: Recording, patch: pytest.MonkeyPatch) -> None:
    """A search with beams is slow: what is heard matters to no test of these."""
    decode, seed_of = evaluation.decode, randomness.derived_seed

    def decoding(model: AcousticModel, batch: Batch, decoder: Decoder, config: EvaluationConfig) -> Any:
        recording.decoders[stage()].add(decoder)
        return decode(model, batch, Decoder.ctc_greedy, config)

    def drawing(seed: int, *place: int | str) -> int:
        recording.draws.append((seed, place))
        return seed_of(seed, *place)

    patch.setattr(evaluation, "decode", decoding)
    patch.setattr(randomness, "derived_seed", drawing)
