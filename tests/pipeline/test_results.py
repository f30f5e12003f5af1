"""The final test: by the decoder that was chosen, and by CTC greedy beside it."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from asr_fed.config.schema import Decoder
from asr_fed.model.recogniser import save_recogniser
from asr_fed.pipeline import results
from asr_fed.pipeline.results import Outcome, beside, summarise
from asr_fed.reporting.evaluation_files import numbers
from asr_fed.reporting.progress import RunProgress, result_table
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.summary import SystemResult
from tests.tiny import Corpus, settings, typed_config


@pytest.fixture
def tested(
    experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path
) -> Callable[..., tuple[Experiment, Outcome]]:
    """A run that has trained nothing, and its tests."""

    def run(*changes: str) -> tuple[Experiment, Outcome]:
        own = replace(experiment, config=typed_config(settings(corpus, prepared, tmp_path), *changes), run_dir=tmp_path)
        for name in ("warm_start", "federated"):
            save_recogniser(own.fresh_recogniser(), own.checkpoints / f"{name}.pt")
        return own, results.test_all(own, RunProgress())

    return run


def test_ctc_greedy_stands_beside_a_beam(tested: Callable[..., tuple[Experiment, Outcome]]) -> None:
    own, tests = tested("evaluation.test_decoder=beam", "evaluation.beam_size=2")
    assert tests.chosen.keys() == tests.ctc_greedy.keys() == {"warm_start", "federated"}
    expected = results.test(own, "federated", Decoder.ctc_greedy, RunProgress())
    assert tests.ctc_greedy["federated"].hypotheses == expected.hypotheses
    assert tests.chosen["federated"].hypotheses != expected.hypotheses
    system = summarise(own, None, tests, {}).systems["federated"]
    assert (system.wer, system.ctc_greedy_wer) == (tests.chosen["federated"].wer, expected.wer)
    assert (system.cer, system.ctc_greedy_cer) == (tests.chosen["federated"].cer, expected.cer)


@pytest.mark.parametrize(
    "changes",
    [("evaluation.test_decoder=ctc_greedy",), ("evaluation.test_decoder=attention_greedy", "loss.ctc_weight=0")],
)
def test_it_does_not_where_it_is_the_chosen_one_or_not_trained(
    tested: Callable[..., tuple[Experiment, Outcome]], changes: tuple[str, ...]
) -> None:
    own, tests = tested(*changes)
    assert tests.ctc_greedy == {}
    assert summarise(own, None, tests, {}).systems["federated"].ctc_greedy_wer is None


def test_the_table_has_a_column_for_it_where_there_is_one(tested: Callable[..., tuple[Experiment, Outcome]]) -> None:
    def shown(systems: dict) -> str:
        console = Console(width=120, file=io.StringIO())
        with console.capture() as capture:
            console.print(result_table(systems, "title"))
        return capture.get()

    _, tests = tested("evaluation.test_decoder=ctc_greedy")
    found = tests.chosen["federated"]
    assert "greedy" not in shown({"federated": SystemResult(**numbers(found))})
    other = {"federated": SystemResult(**numbers(found), ctc_greedy_wer=12.345)}
    assert "CTC greedy" in shown(other) and "12.35" in shown(other)
    assert beside(None) == {"ctc_greedy_wer": None, "ctc_greedy_cer": None}
