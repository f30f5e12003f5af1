"""A run directory, prepared once and opened by many: what is computed, and what a worker needs of it."""

from pathlib import Path

import numpy as np
import pytest

from asr_fed.data.partition_files import read_client, read_client_rows
from asr_fed.runs.experiment import Experiment, open_experiment, open_run, prepare_experiment
from asr_fed.runs.run_dir import begin_run
from asr_fed.system.errors import UserError
from tests.tiny import Corpus, settings, typed_config


@pytest.fixture(scope="module")
def prepared_run(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """With a playback speed, and without its longest utterances."""
    content = settings(corpus, prepared, tmp_path_factory.mktemp("opened"))
    content["data"]["parts"]["max_train_seconds"] = 1.2
    experiment = prepare_experiment(typed_config(content, "augment.speeds=[0.9,1.0]"))
    begin_run(experiment.config)
    return experiment


def test_features_are_of_what_is_used_and_speeds_of_what_is_trained_on(prepared_run: Experiment) -> None:
    partition, cache = prepared_run.partition, prepared_run.cache
    trained_on = {utterance.id for utterance in partition.trained_on}
    evaluated = [*partition.dev, *partition.test, *(u for client in partition.clients for u in client.dev)]
    assert trained_on and not trained_on & {utterance.id for utterance in evaluated}
    assert trained_on | {utterance.id for utterance in evaluated} == {utterance.id for utterance in partition.kept}
    for utterance in partition.kept:
        assert cache.frames(utterance.id, 1.0) > 0
        if utterance.id in trained_on:
            assert cache.frames(utterance.id, 0.9) > cache.frames(utterance.id, 1.0)
        else:
            with pytest.raises(KeyError):
                cache.frames(utterance.id, 0.9)
    assert partition.dropped["too_long"]
    for utterance in partition.dropped["too_long"]:
        with pytest.raises(KeyError):
            cache.frames(utterance.id, 1.0)


def test_a_worker_opens_the_run_without_its_recordings_and_lists(
    prepared_run: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*arguments: object) -> None:
        raise AssertionError("a worker looks at the whole corpus")

    for name in ("read_partition", "build_features", "add_speeds", "read_manifest"):
        monkeypatch.setattr(f"asr_fed.runs.experiment.{name}", looked)
    run = open_run(prepared_run.run_dir)
    assert run.cache == prepared_run.cache and run.config == prepared_run.config
    assert run.tokenizer.sha256 == prepared_run.tokenizer.sha256
    rows = read_client_rows(run.run_dir / "partition")
    for client in prepared_run.partition.clients:
        assert read_client(run.run_dir / "partition", rows[client.id]) == client
        for utterance in client.train:
            np.testing.assert_array_equal(run.cache[utterance.id, 0.9], prepared_run.cache[utterance.id, 0.9])


def test_what_is_gone_is_computed_again_by_whoever_opens_all(prepared_run: Experiment) -> None:
    """A run directory of 0.1.0 has no list of its features."""
    (prepared_run.run_dir / "features.json").unlink()
    with pytest.raises(UserError, match=r"no .*features\.json.* resume=true"):
        open_run(prepared_run.run_dir)
    opened = open_experiment(prepared_run.run_dir)
    assert (opened.cache, opened.partition) == (prepared_run.cache, prepared_run.partition)
    assert open_run(prepared_run.run_dir).cache == prepared_run.cache


def test_a_partition_of_0_1_0_gets_the_list_of_its_clients(prepared_run: Experiment) -> None:
    kept = prepared_run.run_dir / "partition"
    before = {name: (kept / name).read_bytes() for name in ("clients.csv", "partition.csv")}
    (kept / "clients.csv").unlink()
    prepare_experiment(prepared_run.config)
    assert {name: (kept / name).read_bytes() for name in before} == before
