"""The run directory: who may use it, and with which config."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asr_fed.runs.run_dir import claim_run_dir, git_commit, read_summary, versions, write_history, write_summary
from asr_fed.system.errors import UserError
from tests.tiny import typed_config


def claim(run_dir: Path, *changes: str) -> Path:
    with claim_run_dir(typed_config({"run_dir": str(run_dir)}, *changes)) as claimed:
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


@pytest.mark.parametrize(
    "change",
    ["engine.workers=7", "federation.rounds=50", "evaluation.test_decoder=ctc_greedy", "evaluation.beam_size=3"],
)
def test_what_does_not_change_the_past_may_change(tmp_path: Path, change: str) -> None:
    claim(tmp_path)
    claim(tmp_path, "resume=true", change)
    key, value = change.split("=")
    assert str(OmegaConf.select(OmegaConf.load(tmp_path / "config.yaml"), key)) == value


HOLD = """
    import sys, time
    from asr_fed.runs.run_dir import claim_run_dir
    from tests.tiny import typed_config

    with claim_run_dir(typed_config({"run_dir": sys.argv[1]})):
        print("held", flush=True)
        time.sleep(60)
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


def test_history_and_summary_are_read_back(tmp_path: Path) -> None:
    records = [{"round": 1, "wer": 50.0, "failures": {"é": "why"}}, {"round": 2, "wer": None, "failures": {}}]
    write_history(tmp_path, records)
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
    write_summary(tmp_path, {"test_wer": 12.5})
    assert read_summary(tmp_path) == {"test_wer": 12.5}
    with pytest.raises(UserError, match="has no summary"):
        read_summary(tmp_path / "other")
    assert {"asr_fed", "torch", "flwr"} <= versions().keys()
    assert re.fullmatch(r"[0-9a-f]{40}\+?", git_commit() or "0" * 40)
