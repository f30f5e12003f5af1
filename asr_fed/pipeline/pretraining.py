"""The results of a pre-training: its models on the test speakers, and recognisers that begin with its encoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_fed.config.schema import Mode, TaskKind
from asr_fed.data.manifest import hours
from asr_fed.data.partition_files import summarise
from asr_fed.evaluation.evaluate import Evaluation, describe_decoder
from asr_fed.evaluation.statistics import describe_pair, paired_test
from asr_fed.federation.state import FederationState
from asr_fed.model.state import read_state, state_sha256
from asr_fed.pipeline.results import account_for, compare_with_others, test
from asr_fed.reporting.carbon import carbon_section
from asr_fed.reporting.evaluation_files import numbers, write_evaluation
from asr_fed.reporting.figures import pretraining_figures
from asr_fed.reporting.page import render
from asr_fed.reporting.progress import RunProgress, pretraining_table, result_table
from asr_fed.reporting.simulation import fleet_section
from asr_fed.runs.experiment import Experiment, pick_device, systems
from asr_fed.runs.summary import (
    FINE_TUNED,
    FROM_SCRATCH,
    RECOGNISERS,
    PretrainingResult,
    PretrainingSummary,
    SystemResult,
    write_summary,
)
from asr_fed.system.files import write_text
from asr_fed.tasks.learners import load_pretrainer


def evaluate_pretraining(experiment: Experiment, progress: RunProgress) -> dict[str, PretrainingResult]:
    """By system: how well it guesses what is masked, and how its encoder's states vary, on the test speakers.

    The warm start is that of random weights.
    """
    found, speech = {}, experiment.partition.test
    for name in systems(experiment.config):
        pretrainer = load_pretrainer(experiment.checkpoints / f"{name}.pt")
        task = experiment.pretraining(pretrainer, pick_device(experiment.config.device))
        guessed, variance = task.evaluate(speech, "dev"), task.state_variance(speech)
        found[name] = PretrainingResult(
            guessed.loss, guessed.accuracy, guessed.masked, variance.between, variance.effective_rank
        )
    progress.say(pretraining_table(found))
    return found


def as_recognition(experiment: Experiment) -> Experiment:
    """The same speech and settings, for a recogniser."""
    config = experiment.config
    return replace(experiment, config=replace(config, task=replace(config.task, kind=TaskKind.recognition)))


def own_encoder(experiment: Experiment) -> Path:
    """The checkpoint that the pre-training was for."""
    own = "central" if experiment.config.mode is Mode.central else "federated"
    return experiment.checkpoints / f"{own}.pt"


def evaluate_recognition(experiment: Experiment, progress: RunProgress) -> dict[str, Evaluation]:
    """Of RECOGNISERS, those that were trained, on the test speakers."""
    if not experiment.config.fine_tune.epochs:
        return {}
    decoder = experiment.config.evaluation.test_decoder
    found = {name: test(as_recognition(experiment), name, decoder, progress) for name in RECOGNISERS}
    results = {name: SystemResult(**numbers(evaluation)) for name, evaluation in found.items()}
    progress.say(result_table(results, f"{len(found[FINE_TUNED].speakers)} unseen test speakers"))
    own, scratch = found[FINE_TUNED], found[FROM_SCRATCH]
    progress.say(f"{FINE_TUNED} against {FROM_SCRATCH}: {describe_pair(paired_test(own, scratch))}".replace("_", " "))
    return found


def write_pretraining(
    experiment: Experiment,
    federation: FederationState | None,
    tests: Mapping[str, PretrainingResult],
    made: Mapping[str, Any],
    recognised: Mapping[str, Evaluation] | None = None,
) -> PretrainingSummary:
    """summary.json, report.html and evaluation/NAME/ for each of `recognised`; returns the summary.

    `made`: what it says of this process.
    """
    config, run_dir, recognised = experiment.config, experiment.run_dir, recognised or {}
    path = own_encoder(experiment)
    own, model = path.stem, load_pretrainer(path).model
    decoder = describe_decoder(config.evaluation.test_decoder, config.evaluation)
    for name, evaluation in recognised.items():
        about = {
            "recogniser": str(experiment.checkpoints / f"{name}.pt"),
            "speech": "the run's test speakers",
            **decoder,
        }
        write_evaluation(run_dir / "evaluation" / name, evaluation, about, compare_with_others(name, recognised))
    pooled = [utterance for client in experiment.partition.clients for utterance in client.train]
    accounts, account = account_for(experiment, federation, sum(each.numel() for each in model.parameters()), None)
    summary = PretrainingSummary(
        task=config.task.kind.name,
        mode=config.mode.name,
        test_loss=tests[own].loss,
        test_accuracy=tests[own].accuracy,
        best_round=federation.best_round if federation is not None else 0,
        rounds=federation.round if federation is not None else 0,
        clients=federation.clients if federation is not None else len(experiment.partition.clients),
        hours=federation.seconds / 3600 if federation is not None else hours(pooled),
        systems=dict(tests),
        recognition={name: SystemResult(**numbers(evaluation)) for name, evaluation in recognised.items()},
        difference=paired_test(recognised[FINE_TUNED], recognised[FROM_SCRATCH]) if recognised else None,
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        weights_sha256=state_sha256(read_state(model)),
        tokenizer_sha256=experiment.tokenizer.sha256,
        **accounts,
        **made,
    )
    write_summary(run_dir, summary)
    history = federation.history if federation is not None else ()
    page = render(
        "pretraining.html.j2",
        name=run_dir.name,
        summary=summary,
        own=own,
        rounds=pretraining_figures(history) if history else {},
        fleet=fleet_section(run_dir, summary.simulation, history),
        carbon=carbon_section(account, summary) if account else None,
        partition=summarise(experiment.partition),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
    )
    write_text(run_dir / "report.html", page)
    return summary
