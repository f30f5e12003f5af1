"""The results of a run: its recognisers evaluated on the test speakers, written to files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr_fed.carbon.account import Account, summarise_account, write_account
from asr_fed.carbon.measure import read_measured
from asr_fed.carbon.of_run import account_of_run
from asr_fed.config.check_learning import check_decoder
from asr_fed.config.schema import Decoder, EvaluationConfig, Mode
from asr_fed.data.manifest import hours
from asr_fed.evaluation.breakdown import speaker_spread
from asr_fed.evaluation.evaluate import Evaluation, describe_decoder, evaluate
from asr_fed.evaluation.statistics import Paired, paired_test
from asr_fed.federation.personalisation import summarise_gains
from asr_fed.federation.state import FederationState, load_federation
from asr_fed.model.recogniser import load_recogniser
from asr_fed.model.state import freeze, read_state, state_sha256
from asr_fed.pipeline.fleet import summarise_run_of_fleet
from asr_fed.reporting.evaluation_files import numbers, write_evaluation
from asr_fed.reporting.progress import RunProgress
from asr_fed.reporting.report import write_report
from asr_fed.runs.experiment import Experiment, open_experiment, pick_device, pooled_speech, systems
from asr_fed.runs.run_dir import exclusive, git_commit, versions
from asr_fed.runs.summary import RunSummary, SystemResult, read_summary, write_summary
from asr_fed.system.processes import peak_rss_mb

OF_THE_PROCESS = ("seconds", "peak_rss_mb", "command", "versions", "git_commit")


@dataclass(frozen=True)
class Outcome:
    """Evaluations of a run's recognisers on its test speakers, by name.

    chosen: with `evaluation.test_decoder`.
    ctc_greedy: with CTC greedy, for comparison; empty if that is the chosen decoder, or if the CTC head is not trained.
    """

    chosen: dict[str, Evaluation]
    ctc_greedy: dict[str, Evaluation]


def test_all(experiment: Experiment, progress: RunProgress) -> Outcome:
    """Evaluate every recogniser of the run on its test speakers."""
    config = experiment.config
    names, decoder = systems(config), config.evaluation.test_decoder
    both = decoder is not Decoder.ctc_greedy and config.loss.ctc_weight > 0
    return Outcome(
        chosen={name: test(experiment, name, decoder, progress) for name in names},
        ctc_greedy={name: test(experiment, name, Decoder.ctc_greedy, progress) for name in names if both},
    )


def test(experiment: Experiment, name: str, decoder: Decoder, progress: RunProgress) -> Evaluation:
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
        decoder,
        config.evaluation,
        device,
        on_batch=lambda utterances: progress.bars.advance(bar, utterances),
    )
    progress.bars.remove_task(bar)
    return result


def write_results(
    experiment: Experiment,
    federation: FederationState | None,
    tests: Outcome,
    made: Mapping[str, Any],
) -> RunSummary:
    """summary.json, evaluation/NAME/ for each recogniser, the carbon account, and report.html; returns the summary.

    `made`: facts for the summary about the run that trained them (seconds, memory, command, versions, commit).
    """
    run_dir, evaluations = experiment.run_dir, tests.chosen
    for name, evaluation in evaluations.items():
        about = {
            "recogniser": f"{run_dir / 'checkpoints' / name}.pt",
            "speech": "the run's test speakers",
            **describe_decoder(experiment.config.evaluation.test_decoder, experiment.config.evaluation),
        }
        write_evaluation(run_dir / "evaluation" / name, evaluation, about, compare_with_others(name, evaluations))
    return write_accounts(experiment, federation, summarise(experiment, federation, tests, made), evaluations)


def write_accounts(
    experiment: Experiment,
    federation: FederationState | None,
    summary: RunSummary,
    evaluations: Mapping[str, Evaluation],
) -> RunSummary:
    """The time of the simulated fleet and the carbon account, where the config has them; summary.json with both, and
    report.html. Returns the summary.
    """
    run_dir, before = experiment.run_dir, summary.warm_start_wer
    gained = None if before is None else before - summary.test_wer
    accounts, account = account_for(experiment, federation, summary.parameters, gained)
    summary = replace(summary, **accounts)
    write_summary(run_dir, summary)
    history = federation.history if federation is not None else []
    write_report(
        run_dir,
        summary,
        history,
        evaluations,
        experiment.partition,
        clips=experiment.config.evaluation.report_clips,
        account=account,
    )
    return summary


def account_for(
    experiment: Experiment, federation: FederationState | None, parameters: int, wer_gained: float | None
) -> tuple[dict[str, Any], Account | None]:
    """What a summary says of carbon and of the simulated fleet, and the carbon account, which is written to the run
    directory.

    Args:
        parameters: of the model, with those that are frozen.
        wer_gained: by the federation, in points; None where no WER is known.
    """
    account = carbon_account(experiment, federation, wer_gained)
    if account is not None:
        write_account(experiment.run_dir, account)
    carbon = None if account is None else summarise_account(account, read_measured(experiment.run_dir))
    fleet = summarise_run_of_fleet(experiment, federation, parameters)
    return {"carbon": carbon, "simulation": fleet}, account


def carbon_account(
    experiment: Experiment, federation: FederationState | None, wer_gained: float | None
) -> Account | None:
    """None where the config asks for none, or there was no round.

    The centralised run makes the passes of the config over the pooled speech, whether the run has trained one or not.
    """
    config = experiment.config
    if config.carbon is None or federation is None or not federation.history:
        return None
    here = experiment.partition.clients  # the silos of a deployment keep theirs
    pooled = sum(each.duration for each in pooled_speech(experiment)) if here else federation.seconds
    return account_of_run(config, experiment.run_dir, federation.history, config.central.epochs * pooled, wer_gained)


def test_again(run_dir: Path, settings: EvaluationConfig, device: str) -> RunSummary:
    """Test the recognisers of a finished run with another decoder, and write its results again.

    Raises UserError where the run has not ended.
    """
    earlier = read_summary(run_dir)
    made = {name: getattr(earlier, name) for name in OF_THE_PROCESS}
    experiment = open_experiment(run_dir)
    trained = experiment.config.loss.ctc_weight
    check_decoder(settings.test_decoder, settings.beam_ctc_weight, trained, "--decoder")
    experiment.config.evaluation, experiment.config.device = settings, device
    checkpoint = experiment.checkpoints / "federation.pt"
    federation = load_federation(checkpoint) if checkpoint.is_file() else None
    with (
        exclusive(run_dir / ".lock", f"Another process is running in {run_dir}."),
        RunProgress() as progress,
    ):
        summary = write_results(experiment, federation, test_all(experiment, progress), made)
        progress.result(summary)
        progress.say(f"Results are in {run_dir}.")
    return summary


def beside(ctc_greedy: Evaluation | None) -> dict[str, float | None]:
    """The numbers of CTC greedy that are shown beside those of the chosen decoder."""
    return {
        "ctc_greedy_wer": ctc_greedy.wer if ctc_greedy else None,
        "ctc_greedy_cer": ctc_greedy.cer if ctc_greedy else None,
    }


def compare_with_others(name: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Paired]:
    return {other: paired_test(evaluations[name], evaluations[other]) for other in evaluations if other != name}


def made_by(seconds: float, command: str) -> dict[str, Any]:
    """Facts about this process for the summary."""
    return dict(zip(OF_THE_PROCESS, (seconds, peak_rss_mb(), command, versions(), git_commit()), strict=True))


def summarise(
    experiment: Experiment, federation: FederationState | None, tests: Outcome, made: Mapping[str, Any]
) -> RunSummary:
    config, evaluations = experiment.config, tests.chosen
    own = "central" if config.mode is Mode.central else "federated"
    model = load_recogniser(experiment.checkpoints / f"{own}.pt").model
    weights_sha256 = state_sha256(read_state(model))
    freeze(model, config.federation.frozen)
    federated_sha256 = state_sha256(read_state(model))  # of the weights that clients are sent
    pooled = [utterance for client in experiment.partition.clients for utterance in client.train]
    return RunSummary(
        mode=config.mode.name,
        test_wer=evaluations[own].wer,
        test_cer=evaluations[own].cer,
        warm_start_wer=evaluations["warm_start"].wer if "warm_start" in evaluations else None,
        best_round=federation.best_round if federation is not None else 0,
        rounds=federation.round if federation is not None else 0,
        clients=federation.clients if federation is not None else len(experiment.partition.clients),
        hours=federation.seconds / 3600 if federation is not None else hours(pooled),
        test_speakers=len(evaluations[own].speakers),
        decoder=config.evaluation.test_decoder.name,
        systems={
            name: SystemResult(**numbers(evaluation) | beside(tests.ctc_greedy.get(name)))
            for name, evaluation in evaluations.items()
        },
        against=compare_with_others(own, evaluations),
        spread={name: speaker_spread(evaluation) for name, evaluation in evaluations.items()},
        personalisation=summarise_gains(experiment, federated_sha256) if config.personalise else None,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_sha256=weights_sha256,
        tokenizer_sha256=experiment.tokenizer.sha256,
        **made,
    )
