"""One run from corpus to word error rate. Read it top to bottom."""

import csv
import logging
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asr_fed.config.schema import CentralConfig, Config, Mode, Start
from asr_fed.data.manifest import Utterance, hours
from asr_fed.evaluation.evaluate import Evaluation, evaluate
from asr_fed.experiment import Experiment, pick_device, prepare_experiment
from asr_fed.federation.local_grid import LocalGrid
from asr_fed.federation.server_app import FederationState, run_federation
from asr_fed.model.recogniser import Recogniser, load_recogniser, save_recogniser
from asr_fed.progress import RunProgress, result_table
from asr_fed.run_dir import begin_run, write_history, write_summary
from asr_fed.training.central import train_central
from asr_fed.training.state import read_state, state_sha256


def train(config: Config) -> dict[str, Any]:
    """Run `config` to its end and return the summary that is also in the run directory.

    Raises UserError for what the user can put right.
    """
    started = time.perf_counter()
    torch.set_num_threads(config.engine.server_threads)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    lock = begin_run(config)
    run_dir = Path(config.run_dir)
    experiment = prepare_experiment(config)
    with lock, RunProgress(run_dir) as progress:
        progress.say(describe(experiment))
        summary: dict[str, Any] = {}
        if config.mode is Mode.federated:
            warm_start(experiment, progress)
            state = federate(experiment, progress)
            summary |= {"best_round": state.best_round, "rounds": state.round}
            systems = ["warm_start", "federated"]
            if config.central.after_federation:
                reference(experiment, progress)
                systems.append("central")
        else:
            if config.central.start is Start.warm_start:
                warm_start(experiment, progress)
            reference(experiment, progress)
            systems = ["central"]

        evaluations = {name: test(experiment, name, progress) for name in systems}
        headline = systems[1] if config.mode is Mode.federated else systems[0]
        final = load_recogniser(experiment.checkpoints / f"{headline}.pt")
        peak = {"server": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
        per_mb = 1024**2 if sys.platform == "darwin" else 1024
        rss = {name: resource.getrusage(who).ru_maxrss / per_mb for name, who in peak.items()}
        summary |= {
            "mode": config.mode.name,
            "test_wer": evaluations[headline].wer,
            "test_cer": evaluations[headline].cer,
            "warm_start_wer": evaluations["warm_start"].wer if "warm_start" in evaluations else None,
            "decoder": config.evaluation.test_decoder.name,
            "systems": {name: numbers(result) for name, result in evaluations.items()},
            "clients": len(experiment.partition.clients),
            "hours": hours(u for client in experiment.partition.clients for u in client.train),
            "parameters": final.parameters,
            "weights_sha256": state_sha256(read_state(final.model)),
            "tokenizer_sha256": experiment.tokenizer.sha256,
            "seconds": time.perf_counter() - started,
            "peak_rss_mb": rss["server"],
            "peak_worker_rss_mb": rss["worker"],
        }
        write_results(experiment, evaluations)
        write_summary(run_dir, summary)
    progress.console.print(
        result_table(summary["systems"], f"{len(evaluations[headline].speakers)} unseen test speakers")
    )
    progress.say(f"Results are in {run_dir}.")
    return summary


def describe(experiment: Experiment) -> str:
    partition = experiment.partition
    parts = {name: getattr(partition, name) for name in ("warm_up", "held_out", "dev", "test")}
    parts["clients"] = [utterance for client in partition.clients for utterance in client.train]
    text = ", ".join(
        f"{name.replace('_', '-')} {hours(part):.2f} h ({len({u.speaker for u in part})} speakers)"
        for name, part in parts.items()
    )
    return f"{experiment.run_dir}: {text}; {len(partition.clients)} clients"


def warm_start(experiment: Experiment, progress: RunProgress) -> None:
    """checkpoints/warm_start.pt: trained centrally on warm-up speech, or the checkpoint that the config names."""
    path = experiment.checkpoints / "warm_start.pt"
    settings = experiment.config.warm_start
    if path.is_file():
        return
    if settings.checkpoint is not None:
        save_recogniser(experiment.fresh_recogniser(), path)
        return
    recogniser = experiment.fresh_recogniser()
    centrally(experiment, recogniser, experiment.partition.warm_up, settings, "warm_start", progress)


def reference(experiment: Experiment, progress: RunProgress) -> None:
    """checkpoints/central.pt: what pooling the speech would have given.

    From scratch it trains on all speech but dev and test; from the warm start, on what the federation trains on.
    """
    if (experiment.checkpoints / "central.pt").is_file():
        return
    config, partition = experiment.config, experiment.partition
    speech = [utterance for client in partition.clients for utterance in client.train]
    scratch = config.central.start is Start.scratch
    if scratch or config.federation.held_out.epochs:
        speech += partition.held_out
    if scratch or config.federation.held_out.replay_warm_up:
        speech += partition.warm_up
    recogniser = experiment.fresh_recogniser() if scratch else load_recogniser(experiment.checkpoints / "warm_start.pt")
    centrally(experiment, recogniser, speech, config.central, "central", progress)


def centrally(
    experiment: Experiment,
    recogniser: Recogniser,
    speech: Sequence[Utterance],
    settings: CentralConfig,
    name: str,
    progress: RunProgress,
) -> None:
    config = experiment.config
    bar = progress.bars.add_task(name.replace("_", " "), total=settings.epochs)

    def on_epoch(report) -> None:
        progress.bars.update(bar, completed=report.epoch)
        if report.wer is not None:
            progress.epoch(name, report)

    train_central(
        experiment.training_context(recogniser, pick_device(config.device)),
        speech,
        experiment.partition.dev,
        settings,
        config.evaluation,
        seed=config.seed,
        name=name,
        checkpoint=experiment.checkpoints / f"{name}_training.pt",
        on_epoch=on_epoch,
    )
    progress.bars.remove_task(bar)
    save_recogniser(recogniser, experiment.checkpoints / f"{name}.pt")


def federate(experiment: Experiment, progress: RunProgress) -> FederationState:
    """checkpoints/federated.pt: the rounds, on the engine that the config names."""
    config = experiment.config
    rounds = progress.bars.add_task("rounds", total=config.federation.rounds)
    clients = progress.bars.add_task("clients of this round", total=None)
    history: list[dict[str, Any]] = []

    def on_round(record: dict[str, Any]) -> None:
        history.append(record)
        write_history(experiment.run_dir, history)
        progress.round(record)
        progress.bars.update(rounds, completed=record["round"])
        progress.bars.reset(clients)

    with LocalGrid(
        str(experiment.run_dir),
        config.engine.workers,
        config.engine.threads_per_worker,
        on_client=lambda client: progress.bars.advance(clients),
    ) as grid:
        state = run_federation(experiment, grid, on_round)
    progress.bars.remove_task(rounds)
    progress.bars.remove_task(clients)
    return state


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


def write_results(experiment: Experiment, evaluations: dict[str, Evaluation]) -> None:
    """test_speakers.csv and test_hypotheses.csv: every system's errors by speaker, and what it heard."""
    with (experiment.run_dir / "test_speakers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["system", "speaker", "wer", "substitutions", "deletions", "insertions", "words"])
        for name, evaluation in evaluations.items():
            for speaker, c in evaluation.speakers.items():
                writer.writerow(
                    [name, speaker, f"{c.percent:.2f}", c.substitutions, c.deletions, c.insertions, c.units]
                )
    with (experiment.run_dir / "test_hypotheses.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "speaker", "reference", *evaluations])
        for utterance in experiment.partition.test:
            heard = [evaluation.hypotheses[utterance.id] for evaluation in evaluations.values()]
            writer.writerow([utterance.id, utterance.speaker, utterance.text, *heard])
