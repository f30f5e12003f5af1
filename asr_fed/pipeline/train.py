"""One run from corpus to word error rate. Read it top to bottom."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from asr_fed.aggregation.robust import describe_unbounded
from asr_fed.carbon.measure import check_measure, measured
from asr_fed.carbon.of_run import check_carbon
from asr_fed.config.schema import CentralConfig, Config, EngineKind, Start
from asr_fed.data.alignable import MOST, alignable, describe_impossible, keep_alignable
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition, describe
from asr_fed.data.tokenizer import describe_unknown
from asr_fed.engines.check import check_reachable
from asr_fed.engines.open_workers import open_workers
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.sampling import cohort_size
from asr_fed.federation.state import FederationState, load_federation
from asr_fed.federation.virtual import VirtualTime, virtual_time
from asr_fed.interop.open_recogniser import open_recogniser
from asr_fed.model.backbone import count_states
from asr_fed.model.recogniser import Recogniser, save_recogniser
from asr_fed.model.state import freeze
from asr_fed.pipeline.pretraining import (
    as_recognition,
    evaluate_pretraining,
    evaluate_recognition,
    own_encoder,
    write_pretraining,
)
from asr_fed.pipeline.results import made_by, test_all, write_results
from asr_fed.pipeline.stuck import describe_no_gain, describe_stuck
from asr_fed.reporting.carbon import describe_carbon
from asr_fed.reporting.partition_report import draw_histogram
from asr_fed.reporting.progress import RunProgress
from asr_fed.reporting.report import describe_gains
from asr_fed.reporting.simulation import describe_fleet, describe_size
from asr_fed.reporting.tracking import check_tracking, open_tracking
from asr_fed.runs.experiment import (
    Experiment,
    pick_device,
    pooled_speech,
    prepare_experiment,
    reads_transcripts,
    settle_encoder,
    systems,
)
from asr_fed.runs.records import RoundRecord, write_epochs, write_history
from asr_fed.runs.run_dir import begin_run, claim_run_dir, has_begun
from asr_fed.runs.summary import FINE_TUNED, RECOGNISERS, PretrainingSummary, RunSummary
from asr_fed.simulation.fleet import Fleet
from asr_fed.system.errors import UserError
from asr_fed.system.processes import keep_freed_memory
from asr_fed.system.randomness import seed_everything
from asr_fed.tasks.learners import Learner, adopt_encoder, load_learner, load_pretrainer, save_learner
from asr_fed.training.central import EpochReport, train_central

LONG = 10  # trainings of at least this many epochs report already halfway that they learn nothing


def train(config: Config, command: str = "") -> RunSummary | PretrainingSummary:
    """Run `config` to its end and return the summary that is also in the run directory.

    `command` is the command line for the summary. Raises UserError for errors that the user can fix.
    """
    started = time.perf_counter()
    keep_freed_memory()
    torch.set_num_threads(config.engine.server_threads)
    # Other processes, with working directories of their own, open the run directory and what it names.
    config.run_dir, config.data.prepared = (
        str(Path(path).absolute()) for path in (config.run_dir, config.data.prepared)
    )
    logging.getLogger("flwr").setLevel(logging.WARNING)
    settle_encoder(config)
    pick_device(config.device)  # fails before any work if it is not there
    check_tracking(config)
    check_reachable(config)
    if config.simulation is not None:
        Fleet.read(config.simulation, config.seed)
    check_carbon(config)
    check_measure(config)
    if config.engine.kind is EngineKind.deployment:
        os.umask(0o077)  # transcripts and updates of a real federation: for their owner alone
    with claim_run_dir(config):
        experiment = prepare_experiment(config)
        if owners := experiment.partition.clients:
            draw_histogram(experiment.run_dir / "partition" / "clients.png", [owner.seconds for owner in owners])
        clock = None
        if config.engine.kind is not EngineKind.deployment:  # refuse now rather than later
            clock = virtual_time(experiment)
            cohort_size(config.federation.cohort, len(experiment.partition.clients))
            if config.personalise and not any(client.dev for client in experiment.partition.clients):
                raise UserError(
                    "personalise=true, but no client has enough utterances to hold some back: lower "
                    "federation.clients.dev_min_utterances or raise federation.clients.dev_fraction."
                )
        if config.task.kind.pretrains and config.fine_tune.epochs and not has_begun(experiment.run_dir):
            to_fine_tune_on(experiment)
        begin_run(config)
        with open_tracking(config) as track, RunProgress(track) as progress:
            progress.say(f"{experiment.run_dir}: {describe(experiment.partition)}")
            for remark in remarks(experiment, clock):
                progress.say(remark)
            with measured(config, experiment.run_dir):
                federation = train_models(experiment, progress)
                if config.task.kind.pretrains:
                    found = evaluate_pretraining(experiment, progress)
                    fine_tune(experiment, progress)
                    recognised = evaluate_recognition(experiment, progress)
                else:
                    tests = test_all(experiment, progress)
            made = made_by(time.perf_counter() - started, command)
            summary: RunSummary | PretrainingSummary
            if config.task.kind.pretrains:
                summary = write_pretraining(experiment, federation, found, made, recognised)
            else:
                summary = write_results(experiment, federation, tests, made)
                progress.result(summary)
                if summary.personalisation is not None:
                    progress.say(describe_gains(summary.personalisation))
            say_accounts(summary, progress)
            progress.say(f"Results are in {experiment.run_dir}.")
    return summary


def say_accounts(summary: RunSummary | PretrainingSummary, progress: RunProgress) -> None:
    for line in (*describe_fleet(summary.simulation), *describe_carbon(summary.carbon)):
        progress.say(line)


def remarks(experiment: Experiment, clock: VirtualTime | None) -> Iterator[str]:
    """What to know of a run before it trains."""
    config = experiment.config
    texts = (u.text for u in experiment.partition.utterances if reads_transcripts(config))
    yield from filter(
        None,
        [
            describe_unknown(experiment.tokenizer, texts),
            describe_impossible(experiment.partition),
            describe_unbounded(config.federation.robust) if config.engine.kind is EngineKind.deployment else None,
            None if clock is None else describe_size(clock.clock.size),
        ],
    )


def train_models(experiment: Experiment, progress: RunProgress) -> FederationState | None:
    """Train those of `systems` that do not exist yet; returns the federation's state, if there is one."""
    federation = None
    for name in systems(experiment.config):
        if name == "warm_start":
            warm_start(experiment, progress)
        elif name == "central":
            reference(experiment, progress)
        else:
            federation = federate(experiment, progress)
    return federation


def warm_start(experiment: Experiment, progress: RunProgress) -> None:
    """checkpoints/warm_start.pt: trained centrally on warm-up speech, or the recogniser that the config names."""
    path = experiment.checkpoints / "warm_start.pt"
    settings = experiment.config.warm_start
    if path.is_file():
        return
    if settings.checkpoint is not None:
        seed_everything(experiment.config.seed, "adapters")
        save_recogniser(open_recogniser(settings.checkpoint).with_adapters(experiment.config.model.adapters), path)
        return
    learner = experiment.fresh_learner()
    if settings.encoder is not None and isinstance(learner, Recogniser):
        adopt_encoder(learner, load_pretrainer(Path(settings.encoder)), Path(settings.encoder))
    centrally(experiment, learner, experiment.partition.warm_up, settings, "warm_start", progress)


def reference(experiment: Experiment, progress: RunProgress) -> None:
    """checkpoints/central.pt: the reference, trained on pooled speech."""
    if (experiment.checkpoints / "central.pt").is_file():
        return
    settings = experiment.config.central
    scratch = settings.start is Start.scratch
    begun = experiment.checkpoints / "warm_start.pt"
    learner = experiment.fresh_learner() if scratch else load_learner(begun, experiment.config)
    centrally(experiment, learner, pooled_speech(experiment), settings, "central", progress)


def fine_tune(experiment: Experiment, progress: RunProgress) -> None:
    """After a pre-training: a recogniser by its encoder and one from scratch, on the same transcripts of the warm-up
    speakers. Without `fine_tune.epochs` there are none."""
    settings, speech = experiment.config.fine_tune, as_recognition(experiment)
    if not settings.epochs:
        return
    transcribed = to_fine_tune_on(experiment, most=1.0)  # more than that was refused before the run began
    if impossible := describe_impossible(transcribed):
        progress.say(impossible)
    for name in RECOGNISERS:
        if (experiment.checkpoints / f"{name}.pt").is_file():
            continue
        recogniser, path = speech.fresh_recogniser(), own_encoder(experiment)
        if name == FINE_TUNED:
            adopt_encoder(recogniser, load_pretrainer(path), path)
        centrally(speech, recogniser, transcribed.warm_up, settings, name, progress)


def to_fine_tune_on(experiment: Experiment, most: float = MOST) -> Partition:
    """The warm-up speech, without what CTC cannot align; the pre-training itself takes any speech.

    Raises UserError where that is more than the share `most`, or all.
    """
    warm_up = Partition(experiment.partition.warm_up, (), (), (), ())
    if experiment.config.loss.ctc_weight == 0:
        return warm_up
    fits = alignable(experiment.cache, experiment.tokenizer, partial(count_states, experiment.config.model))
    return keep_alignable(warm_up, fits, most)


def centrally(
    experiment: Experiment,
    learner: Learner,
    speech: Sequence[Utterance],
    settings: CentralConfig,
    name: str,
    progress: RunProgress,
) -> None:
    config = experiment.config
    section = "fine_tune" if name in RECOGNISERS else name  # of the config
    freeze(learner.model, settings.frozen, f"{section}.frozen")
    bar = progress.bars.add_task(name.replace("_", " "), total=settings.epochs)
    evaluated: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> None:
        progress.bars.update(bar, completed=report.epoch)
        if report.wer is None and report.dev_loss is None:
            return
        progress.epoch(name, report)
        halfway = 2 * report.epoch >= settings.epochs > 2 * (evaluated[-1].epoch if evaluated else 0)
        evaluated.append(report)
        if halfway and settings.epochs >= LONG:
            say_if_stuck()

    def say_if_stuck() -> None:
        if evaluated and (advice := describe_stuck(section, evaluated[-1], config)):
            progress.say(advice)

    train_central(
        experiment.task(learner, pick_device(config.device)),
        speech,
        experiment.partition.dev,
        settings,
        seed=config.seed,
        name=name,
        checkpoint=experiment.checkpoints / f"{name}_training.pt",
        on_epoch=on_epoch,
        keep=partial(write_epochs, experiment.run_dir, name),
    )
    progress.bars.remove_task(bar)
    say_if_stuck()
    save_learner(learner, config, experiment.checkpoints / f"{name}.pt")


def federate(experiment: Experiment, progress: RunProgress) -> FederationState:
    """checkpoints/federated.pt: the rounds, on the engine that the config names."""
    config = experiment.config
    rounds = progress.bars.add_task("rounds", total=config.federation.rounds)
    clients = progress.bars.add_task("clients of this round", total=None)

    def on_round(history: Sequence[RoundRecord]) -> None:
        progress.round(history[-1])
        progress.bars.update(rounds, completed=len(history))
        progress.bars.reset(clients)

    def keep_and_show(history: Sequence[RoundRecord]) -> None:
        write_history(experiment.run_dir, history)
        on_round(history)

    if config.engine.kind is EngineKind.deployment:
        from asr_fed.engines.deployment.engine import federate_in_deployment

        federate_in_deployment(experiment, on_round, progress.say)
        state = load_federation(experiment.checkpoints / "federation.pt")
    else:
        cohort = cohort_size(config.federation.cohort, len(experiment.partition.clients))
        progress.bars.update(clients, total=cohort)
        with open_workers(experiment, on_client=lambda client: progress.bars.advance(clients)) as workers:
            state = run_federation(
                experiment,
                workers,
                keep_and_show,
                lambda total: progress.bars.reset(clients, total=total, description="clients that personalise"),
            )
    write_history(experiment.run_dir, state.history)  # after a kill between the last checkpoint and the history
    progress.bars.remove_task(rounds)
    progress.bars.remove_task(clients)
    if advice := describe_no_gain(state, config):
        progress.say(advice)
    return state
