"""The run directory: who may use it, and with which config."""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.partition_files import read_partition
from asr_fed.model.decoding import decode
from asr_fed.runs import run_dir
from asr_fed.runs.experiment import prepare_experiment, read_config
from asr_fed.runs.run_dir import (
    begin_run,
    claim_run_dir,
    flat,
    git_commit,
    has_begun,
    latest_run,
    may_change,
    versions,
)
from asr_fed.system.errors import UserError
from asr_fed.tasks.recognition import Recognition
from tests.tiny import Corpus, random_batch, settings, typed_config

# Another value of each key that a resumed run may change: those that say where it runs, and the others.
WHERE_IT_RUNS = (
    "engine.kind=ray",
    "engine.workers=7",
    "engine.address=somewhere",
    "engine.certificates=keys",
    "engine.nodes=3",
    "engine.wait=5.0",
    "engine.gpus_per_worker=0.5",
)
LATER = (
    "federation.rounds=50",
    "federation.round_timeout=900.0",
    "federation.client_timeout=800.0",
    "federation.min_success=0.25",
    "evaluation.test_decoder=ctc_greedy",
    "evaluation.beam_size=3",
    "evaluation.beam_ctc_weight=0.1",
    "evaluation.beam_eos_threshold=3.0",
    "evaluation.beam_temperature=1.5",
    "evaluation.beam_max_attention_shift=140",
    "evaluation.report_clips=0",
    "tracking=mlflow",
    "carbon.countries.france=1.0",
    "personalise=true",
    "personalisation.epochs=1",
)


def claim(run_dir: Path, *changes: str) -> Path:
    config = typed_config({"run_dir": str(run_dir)}, *changes)
    with claim_run_dir(config) as claimed:
        begin_run(config)
        return claimed


def test_the_config_is_kept_resolved(tmp_path: Path) -> None:
    assert claim(tmp_path / "deep" / "run", "seed=99", "data.name=corpus") == tmp_path / "deep" / "run"
    kept = OmegaConf.load(tmp_path / "deep" / "run" / "config.yaml")
    assert kept.seed == 99
    assert kept.data.prepared == "prepared/corpus"
    assert kept.mode == "federated"


def test_a_used_directory_is_not_written_over(tmp_path: Path) -> None:
    claim(tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match="resume=true"):
        claim(tmp_path, "seed=5")
    assert (tmp_path / "config.yaml").read_text() == before


def test_a_run_of_version_0_1_keeps_the_mean_of_every_frame(tmp_path: Path) -> None:
    run_dir = claim(tmp_path / "run", "features.subtract_mean=true")
    config = OmegaConf.load(run_dir / "config.yaml")
    del config.features["mean_gate_db"]
    OmegaConf.save(config, run_dir / "config.yaml")
    assert read_config(run_dir).features.mean_gate_db is None
    with pytest.raises(UserError, match=r"features\.mean_gate_db"):
        claim(run_dir, "resume=true", "features.subtract_mean=true")
    claim(run_dir, "resume=true", "features.subtract_mean=true", "features.mean_gate_db=null")


def test_a_setting_that_an_older_run_does_not_know_has_its_default(tmp_path: Path) -> None:
    run_dir = claim(tmp_path / "run")
    config = OmegaConf.load(run_dir / "config.yaml")
    del config.federation["freeze_batch_norm"]
    OmegaConf.save(config, run_dir / "config.yaml")
    with pytest.raises(UserError, match=r"federation\.freeze_batch_norm"):
        claim(run_dir, "resume=true", "federation.freeze_batch_norm=true")
    claim(run_dir, "resume=true")


def test_a_run_that_fails_before_it_begins_leaves_the_directory_to_others(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim_run_dir(typed_config({"run_dir": str(tmp_path)})):
        raise ZeroDivisionError
    assert not has_begun(tmp_path)
    assert claim(tmp_path, "seed=5") == tmp_path
    assert has_begun(tmp_path)


def test_what_a_failed_preparation_left_is_made_again(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    content = settings(corpus, prepared, tmp_path)
    first = prepare_experiment(typed_config(content))
    other = prepare_experiment(typed_config(content, "seed=8"))
    assert other.partition != first.partition
    assert read_partition(tmp_path / "partition") == other.partition
    begin_run(typed_config(content))
    with pytest.raises(UserError, match="has changed since"):
        prepare_experiment(typed_config(content))


def test_the_latest_run_is_the_one_begun_or_continued_last(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        claim(tmp_path / "x[1]" / name)
    (tmp_path / "x[1]" / "unbegun").mkdir()
    for age, name in enumerate(("a", "b", "c")):
        os.utime(tmp_path / "x[1]" / name / "config.yaml", (1e9 - age, 1e9 - age))
    assert latest_run(f"{escape(str(tmp_path / 'x[1]'))}/*") == tmp_path / "x[1]" / "a"
    assert latest_run(str(tmp_path / "nothing" / "*")) is None


@pytest.mark.parametrize("old", ["data/en", "/home/data/en", "en"])
def test_a_relative_path_of_an_older_run_is_the_end_of_todays(tmp_path: Path, old: str) -> None:
    """0.1.0 wrote it as it was given; today it is absolute."""
    claim(tmp_path, f"data.root={old}")
    claim(tmp_path, "resume=true", "data.root=/home/data/en")
    with pytest.raises(UserError, match=r"other values of data\.root"):
        claim(tmp_path, "resume=true", "data.root=/home/data/fr")


def test_a_run_begun_when_data_preparation_lay_elsewhere_goes_on(tmp_path: Path) -> None:
    current = "data.prepare._target_=asr_fed.data_prep.table.prepare"
    claim(tmp_path, current)
    path = tmp_path / "config.yaml"
    written = path.read_text()
    assert "_target_: asr_fed.data_prep.table" in written
    path.write_text(written.replace("asr_fed.data_prep", "data_prep"))
    claim(tmp_path, "resume=true", current)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        claim(tmp_path / "none", "resume=true")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "change",
    [
        "federation.lr=0.5",
        "seed=5",
        "federation.cohort=3",
        "weighting.temperature=2",
        "augment.speeds=[0.9,1.0]",
        "evaluation.dev_decoder=attention_greedy",  # the learning rate follows the dev WER
        "engine.threads_per_worker=2",
        "device=cpu",
    ],
)
def test_resuming_with_another_config_names_the_key(tmp_path: Path, change: str) -> None:
    claim(tmp_path)
    key = change.split("=")[0]
    with pytest.raises(UserError, match=rf"other values of {key}\."):
        claim(tmp_path, "resume=true", change)
    assert claim(tmp_path, "resume=true") == tmp_path  # the old config is still in place


@pytest.mark.parametrize("change", [*WHERE_IT_RUNS, *LATER])
def test_what_does_not_change_the_past_may_change(tmp_path: Path, change: str) -> None:
    """That the values of LATER leave the weights alone: tests/federation/test_server_app.py."""
    claim(tmp_path)
    claim(tmp_path, "resume=true", change)
    key, value = change.split("=")
    assert str(OmegaConf.select(OmegaConf.load(tmp_path / "config.yaml"), key)).lower() == value


def test_every_key_that_may_change_is_tried() -> None:
    config = typed_config({"run_dir": "none"})
    keys = flat(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config))))
    free = {key for key in keys if may_change(key, config)} - {"resume", "run_dir"}
    tried = {change.split("=")[0] for change in (*WHERE_IT_RUNS, *LATER)}
    # One key of `personalisation` stands for all: the weights are there before it begins. `carbon` only reads.
    assert {key for key in free ^ tried if not key.startswith(("personalisation.", "carbon"))} == set()


@pytest.mark.parametrize("plan", ["federation.decay_from=0.4", "federation.average_last=3"])
def test_the_number_of_rounds_may_not_change_where_something_was_planned_by_it(tmp_path: Path, plan: str) -> None:
    claim(tmp_path, plan)
    with pytest.raises(UserError, match=r"other values of federation.rounds\. .* is part of the plan"):
        claim(tmp_path, plan, "resume=true", "federation.rounds=50")
    with pytest.raises(UserError, match=rf"other values of {plan.partition('=')[0]}\."):
        claim(tmp_path, "resume=true", "federation.rounds=50")
    claim(tmp_path, plan, "resume=true", "federation.round_timeout=9.0")


@pytest.mark.parametrize("steering", ["evaluation.dev_decoder", "evaluation.client_decoder", "labels"])
@pytest.mark.parametrize("search", [change for change in LATER if change.startswith("evaluation.beam_")])
def test_the_settings_of_a_beam_that_steers_may_not_change(tmp_path: Path, steering: str, search: str) -> None:
    labels = ("federation.pseudo_labels.decoder=beam", "federation.pseudo_labels.every=2")
    decoder = labels if steering == "labels" else (f"{steering}=beam",)
    claim(tmp_path, *decoder)
    with pytest.raises(UserError, match=rf"other values of {search.split('=')[0]}\."):
        claim(tmp_path, *decoder, "resume=true", search)


@pytest.mark.parametrize("decoder", list(Decoder))
def test_what_a_decoder_reads_may_not_change_where_it_steers(context: Recognition, decoder: Decoder) -> None:
    """Whatever the decoders read, now or one day, a run cannot be resumed with another value of it."""
    config = typed_config({}, f"evaluation.dev_decoder={decoder.name}")
    read: set[str] = set()

    class Watched(EvaluationConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    batch = random_batch([30], context.recogniser.tokenizer)
    decode(context.recogniser.model, batch, decoder, Watched())
    settings = read & {each.name for each in fields(EvaluationConfig)}
    assert (decoder is Decoder.beam) == bool(settings)
    assert not [name for name in settings if may_change(f"evaluation.{name}", config)]


HOLD = """
    import sys, time
    from asr_fed.runs.run_dir import begin_run, claim_run_dir
    from tests.tiny import typed_config

    config = typed_config({"run_dir": sys.argv[1]})
    with claim_run_dir(config):
        begin_run(config)
        print("held", flush=True)
        time.sleep(3600)
"""


def test_another_process_is_kept_out_until_it_dies(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another process"):
            claim(tmp_path / "run", "resume=true")
    finally:
        process.kill()
        process.communicate()
    assert claim(tmp_path / "run", "resume=true") == tmp_path / "run"


def test_a_run_says_what_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:  # a copy of the checkout, found by PYTHONPATH
        if name == "asr_fed":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(run_dir, "version", not_installed)
    assert {"asr_fed", "torch", "flwr"} <= versions().keys()
    assert re.fullmatch(r"[0-9a-f]{40}\+?", git_commit() or "0" * 40)
