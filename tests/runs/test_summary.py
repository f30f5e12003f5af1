"""summary.json: what is written is read back, and so is what 0.1.0 wrote."""

import json
from pathlib import Path

import pytest

from asr_fed.evaluation.breakdown import Spread
from asr_fed.evaluation.statistics import Interval, Paired
from asr_fed.runs.summary import VERSION, GainsSummary, RunSummary, SystemResult, read_summary, write_summary
from asr_fed.system.errors import UserError

FULL = RunSummary(
    test_wer=12.5,
    test_cer=4.0,
    warm_start_wer=30.0,
    best_round=3,
    rounds=4,
    clients=5,
    hours=0.5,
    test_speakers=2,
    decoder="beam",
    systems={"federated": SystemResult(12.5, 4.0, 10.0, 15.0, 1, 2, 3, 48, 9, 4, 2, ctc_greedy_wer=14.0)},
    against={
        "warm_start": Paired(-17.5, Interval(-20.0, -15.0), 0.01, 9, 0.002),
        "central": Paired(1.0, None, None, 0, None),
    },
    spread={"federated": Spread(10.0, 12.0, 15.0, 15.0, 0.1)},
    personalisation=GainsSummary("full", "ctc_greedy", 4, 100, 20.0, 18.0, 3, 1, 1, {"client_0003": "OSError"}),
    parameters=1000,
    weights_sha256="5e" * 32,
    tokenizer_sha256="70" * 32,
    seconds=60.0,
    peak_rss_mb=500.0,
    command="python train_fed.py hparams/an4.yaml",
    versions={"torch": "2.11.0"},
    git_commit="c" * 40,
    carbon={"g": {"value": 1.0}},
    simulation={"hours": 2.0},
)
OF_0_1_0 = {
    **{"mode": "central", "test_wer": 12.5, "test_cer": 4.0, "warm_start_wer": None, "best_round": 0, "rounds": 0},
    **{"clients": 5, "hours": 0.5, "test_speakers": 2, "decoder": "ctc_greedy", "parameters": 1000},
    "systems": {"central": {"wer": 12.5, "wer_low": None, "wer_high": None, "cer": 4.0, "bootstrap_draws": 1000}},
    **{"weights_sha256": "5e", "tokenizer_sha256": "70", "seconds": 60.0, "peak_rss_mb": 500.0},
}


def test_a_summary_is_read_back(tmp_path: Path) -> None:
    write_summary(tmp_path, FULL)
    assert read_summary(tmp_path) == FULL and FULL.own == "federated"
    assert json.loads((tmp_path / "summary.json").read_text())["version"] == VERSION == 2


def test_one_of_the_last_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(OF_0_1_0))
    found = read_summary(tmp_path)
    assert (found.version, found.own, found.test_wer, found.seconds) == (1, "central", 12.5, 60.0)
    assert found.systems == {"central": SystemResult(12.5, 4.0)}
    assert (found.command, found.against, found.personalisation, found.carbon) == ("", {}, None, None)


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", json.dumps(OF_0_1_0 | {"systems": {"central": {"wer": 1}}})])
def test_what_is_no_summary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        read_summary(tmp_path)
    with pytest.raises(UserError, match=r"has no summary\.json"):
        read_summary(tmp_path / "other")
