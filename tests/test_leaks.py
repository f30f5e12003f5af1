"""Which utterances each stage of a run reads, to the last one: no other speaker's, no test speech before the test."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import sentencepiece

import asr_fed.engines.workers as engine
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition, read_partition
from asr_fed.pipeline.train import train
from tests.federation.inline_pool import InlinePool
from tests.reads import Reads, record
from tests.tiny import Corpus, settings, typed_config

# Everything that may read speech, and by which functions it is known. Whoever adds a stage adds it here, with what it
# may read below.
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
    "central training": ("reference", "train_epoch"),
    "central dev": ("reference", "evaluate"),
    "test": ("test", "evaluate"),
}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Of this process, in which the workers are too."""
    reads = record(monkeypatch)
    pool = functools.partial(InlinePool, on_message=reads.a_message_comes, on_client=reads.a_client_is_done)
    monkeypatch.setattr(engine, "LocalPool", pool)
    return reads


@pytest.fixture
def tokenizer_texts(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What SentencePiece is given to learn from."""
    texts: set[str] = set()
    really = sentencepiece.SentencePieceTrainer.train

    def noting(*, sentence_iterator: Iterable[str], **more: object) -> None:
        given = list(sentence_iterator)
        texts.update(given)
        really(sentence_iterator=iter(given), **more)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", noting)
    return texts


@pytest.fixture
def run(corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Partition]:
    """A whole run of one round over all clients, each with speech held back; its partition."""

    def run(*changes: str) -> Partition:
        content = settings(corpus, prepared, tmp_path / "run")
        config = typed_config(
            content,
            *("warm_start.epochs=1", "central.epochs=1", "federation.rounds=1", "personalisation.epochs=1"),
            *("federation.clients.dev_fraction=0.3", "federation.clients.dev_min_utterances=2"),
            *("data.parts.max_train_seconds=1.2", "evaluation.report_clips=0"),
            *changes,
        )
        train(config)
        return read_partition(tmp_path / "run" / "partition")

    return run


def ids(*parts: Sequence[Utterance]) -> set[str]:
    return {utterance.id for part in parts for utterance in part}


RUNS = {
    "server training on held-out speech": ("federation.held_out.epochs=1", "central.start=warm_start"),
    "server training with replay": ("federation.held_out.epochs=1", "federation.held_out.replay_warm_up=true"),
    "no server training": ("federation.held_out.epochs=0", "central.start=warm_start"),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_stage_of_a_federated_run_reads_its_own_speech_only(
    name: str, run: Callable[..., Partition], reads: Reads, tokenizer_texts: set[str]
) -> None:
    whole = run("personalise=true", "central.after_federation=true", *RUNS[name])
    pooled = [client.train for client in whole.clients]
    server: list[Sequence[Utterance]] = [] if name == "no server training" else [whole.held_out]
    replay: list[Sequence[Utterance]] = [whole.warm_up] if name == "server training with replay" else []
    from_scratch = "central.start=warm_start" not in RUNS[name]
    expected = {
        "normaliser": ids(whole.warm_up),
        "warm start training": ids(whole.warm_up),
        "warm start dev": ids(whole.dev),
        "round dev": ids(whole.dev),
        "central training": ids(*pooled, whole.held_out, whole.warm_up) if from_scratch else ids(*pooled, *server),
        "central dev": ids(whole.dev),
        "test": ids(whole.test),
    }
    if server:
        expected["held-out training"] = ids(*server, *replay)
    for client in whole.clients:
        for stage in ("client", "personalisation"):
            expected[f"{stage} training {client.id}"] = ids(client.train)
            expected[f"{stage} dev {client.id}"] = ids(client.dev)
    assert reads.by_stage(STAGES) == expected

    texts = {utterance.text for utterance in whole.warm_up}
    assert tokenizer_texts == texts
    # What makes the above worth something: every part is there and holds what no other does.
    parts = [*whole.server_parts.values(), whole.dropped["too_long"], *pooled, *(c.dev for c in whole.clients)]
    assert all(parts) and sum(map(len, parts)) == len(ids(*parts))
    assert len(whole.clients) > 1 and not texts.issuperset(utterance.text for utterance in whole.dev)


def test_every_stage_of_a_central_run_reads_its_own_speech_only(
    run: Callable[..., Partition], reads: Reads, tokenizer_texts: set[str]
) -> None:
    whole = run("mode=central")
    assert reads.by_stage(STAGES) == {
        "normaliser": ids(whole.warm_up),
        "central training": ids(*(client.train for client in whole.clients), whole.held_out, whole.warm_up),
        "central dev": ids(whole.dev),
        "test": ids(whole.test),
    }
    assert tokenizer_texts == {utterance.text for utterance in whole.warm_up}
