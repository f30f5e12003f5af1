"""What a pre-training found out, on paper: its models on the test speakers. They recognise nothing yet."""

from collections.abc import Mapping
from typing import Any

from asr_fed.config.schema import Mode
from asr_fed.data.manifest import hours
from asr_fed.data.partition_files import summarise
from asr_fed.federation.state import FederationState
from asr_fed.model.state import read_state, state_sha256
from asr_fed.reporting.figures import pretraining_figures
from asr_fed.reporting.page import render
from asr_fed.reporting.progress import RunProgress, pretraining_table
from asr_fed.runs.experiment import Experiment, pick_device, systems
from asr_fed.runs.summary import CodesResult, PretrainingSummary, write_summary
from asr_fed.system.files import write_text
from asr_fed.tasks.learners import load_learner


def evaluate_pretraining(experiment: Experiment, progress: RunProgress) -> dict[str, CodesResult]:
    """By system: loss, accuracy in percent, and how many of the codes there were to predict, on the test speakers."""
    found = {}
    for name in systems(experiment.config):
        learner = load_learner(experiment.checkpoints / f"{name}.pt", experiment.config)
        evaluated = experiment.task(learner, pick_device(experiment.config.device)).evaluate(
            experiment.partition.test, "dev"
        )
        numbers = dict(evaluated.numbers)
        found[name] = CodesResult(numbers["dev_loss"], numbers["accuracy"], evaluated.errors.units)
    progress.say(pretraining_table(found))
    return found


def write_pretraining(
    experiment: Experiment,
    federation: FederationState | None,
    tests: Mapping[str, CodesResult],
    made: Mapping[str, Any],
) -> PretrainingSummary:
    """summary.json and report.html; returns the summary. `made`: what it says of this process."""
    config, run_dir = experiment.config, experiment.run_dir
    own = "central" if config.mode is Mode.central else "federated"
    model = load_learner(experiment.checkpoints / f"{own}.pt", config).model
    pooled = [utterance for client in experiment.partition.clients for utterance in client.train]
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
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        weights_sha256=state_sha256(read_state(model)),
        tokenizer_sha256=experiment.tokenizer.sha256,
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
        partition=summarise(experiment.partition),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
    )
    write_text(run_dir / "report.html", page)
    return summary
