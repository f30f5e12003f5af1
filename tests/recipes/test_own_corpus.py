"""The experiment file of docs/own_corpus.md: it is the one that the recipe measures, and it runs."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import asr_fed.engines.open_workers as workers
from asr_fed.data.manifest import read_manifest
from asr_fed.pipeline.train import train
from recipes import check
from tests.federation.inline_pool import InlinePool
from tests.recipes.test_check import compose_and_check
from tests.tiny import TINY_MODEL, Corpus

PAGE = check.RECIPES.parent / "docs" / "own_corpus.md"
# Nine speakers and a minute of speech: everything smaller, nothing other.
SMALLER = (
    *(f"model.{name}={value}".replace(" ", "") for name, value in TINY_MODEL.items()),
    *("data.language=en", "+data.prepare.min_seconds=0.3", "data.parts.warm_up_speakers=3"),
    *("federation.clients.count=2", "federation.rounds=1", "warm_start.epochs=1", "warm_start.evaluate_every=1"),
    *("augment.speeds=[1.0]", "evaluation.beam_size=2", "evaluation.report_clips=0", "engine.workers=1", "device=cpu"),
)


def example() -> str:
    (found,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return found


def test_the_page_and_the_recipe_have_the_same_file() -> None:
    assert example() == (check.RECIPES / "own_corpus" / "mine.yaml").read_text(encoding="utf-8")


def test_the_example_runs_on_a_table_of_recordings(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "LocalPool", InlinePool)
    Path("mine.yaml").write_text(example(), encoding="utf-8")
    config = compose_and_check(str(tmp_path / "mine.yaml"), [f"data.root={corpus.table}", "run_dir=run", *SMALLER])
    summary = train(OmegaConf.to_object(config))  # type: ignore[arg-type]
    assert (summary.rounds, summary.clients) == (1, 2)
    assert len(read_manifest("prepared/mine/manifest.csv")) == corpus.good
    assert {"warm_start", "federated"} <= summary.systems.keys()
