"""What a run found out: its recognisers on the test speakers, on paper."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr_fed.config.schema import Mode
from asr_fed.data.manifest import hours
from asr_fed.evaluation.evaluate import Evaluation, evaluate
from asr_fed.evaluation.report import write_report
from asr_fed.experiment import Experiment, pick_device
from asr_fed.federation.server_app import FederationState
from asr_fed.model.recogniser import load_recogniser
from asr_fed.processes import peak_rss_mb
from asr_fed.progress import RunProgress
from asr_fed.run_dir import write_summary
from asr_fed.training.state import read_state, state_sha256


def test(experiment: Experiment, name: str, progress: RunProgress) -> Evaluation:
    """Evaluate checkpoints/NAME.pt on the test speakers."""
    config, speech = experiment.config, experiment.partition.test
    device = pick_device(config.device)
    recogniser = load_recogniser(experiment.checkpoints / f"{name}.pt")
    recogniser.model.to(device)
    bar = progress.bars.add_task(f"test {name.replace('_', ' ')}", total=len(speech))
    result = evaluate(
        recogniser,
        speech,
        experiment.cache,
        config.evaluation.test_decoder,
        config.evaluation,
        device,
        on_batch=lambda utterances: progress.bars.advance(bar, utterances),
    )
    progress.bars.remove_task(bar)
    return result


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    words = evaluation.words
    return {
        "wer": evaluation.wer,
        "cer": evaluation.cer,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": words.units,
    }


def write_results(
    experiment: Experiment, federation: FederationState | None, evaluations: dict[str, Evaluation], *, seconds: float
) -> dict[str, Any]:
    """summary.json, test_speakers.csv, test_hypotheses.csv and report.html; returns the summary."""
    history = federation.history if federation is not None else []
    run_dir, test_set = experiment.run_dir, experiment.partition.test
    summary = summarise(experiment, federation, evaluations, seconds)
    write_summary(run_dir, summary)
    _write_csv(
        run_dir / "test_speakers.csv",
        ["system", "speaker", "wer", "substitutions", "deletions", "insertions", "words"],
        (
            [name, speaker, f"{c.percent:.2f}", c.substitutions, c.deletions, c.insertions, c.units]
            for name, evaluation in evaluations.items()
            for speaker, c in evaluation.speakers.items()
        ),
    )
    _write_csv(
        run_dir / "test_hypotheses.csv",
        ["ID", "speaker", "reference", *evaluations],
        (
            [u.id, u.speaker, u.text, *(evaluation.hypotheses[u.id] for evaluation in evaluations.values())]
            for u in test_set
        ),
    )
    config = (run_dir / "config.yaml").read_text(encoding="utf-8")
    write_report(run_dir / "report.html", summary, history, evaluations, test_set, config)
    return summary


def summarise(
    experiment: Experiment, federation: FederationState | None, evaluations: dict[str, Evaluation], seconds: float
) -> dict[str, Any]:
    """The numbers of summary.json. Its `test_*` and `weights_sha256` are those of the run's own recogniser."""
    config = experiment.config
    own = "central" if config.mode is Mode.central else "federated"
    model = load_recogniser(experiment.checkpoints / f"{own}.pt").model
    pooled = [utterance for client in experiment.partition.clients for utterance in client.train]
    return {
        "mode": config.mode.name,
        "test_wer": evaluations[own].wer,
        "test_cer": evaluations[own].cer,
        "warm_start_wer": evaluations["warm_start"].wer if "warm_start" in evaluations else None,
        "best_round": federation.best_round if federation is not None else 0,
        "rounds": federation.round if federation is not None else 0,
        "clients": federation.clients if federation is not None else len(experiment.partition.clients),
        "hours": federation.seconds / 3600 if federation is not None else hours(pooled),
        "test_speakers": len(evaluations[own].speakers),
        "decoder": config.evaluation.test_decoder.name,
        "systems": {name: numbers(evaluation) for name, evaluation in evaluations.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_sha256": state_sha256(read_state(model)),
        "tokenizer_sha256": experiment.tokenizer.sha256,
        "seconds": seconds,
        "peak_rss_mb": peak_rss_mb(),
    }


def _write_csv(path: Path, head: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
