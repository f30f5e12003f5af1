"""Time without training: a finished run by the clock of another fleet, and the hours of rounds that nobody has trained.

Time is accounted, so where the other clock would have had the same clients do the same work, the same training has
another duration: it need not be repeated.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asr_fed.config.schema import Config, Sampling
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.federation.sampling import asked_and_wanted, sample_cohort
from asr_fed.federation.state import FederationState, load_federation, save_federation
from asr_fed.federation.virtual import virtual_time
from asr_fed.pipeline.results import write_accounts
from asr_fed.reporting.evaluation_files import read_evaluation
from asr_fed.runs.experiment import Experiment, open_experiment, read_config, systems
from asr_fed.runs.records import RoundRecord, write_history
from asr_fed.runs.run_dir import write_config
from asr_fed.runs.summary import RunSummary, read_summary
from asr_fed.simulation.heard import summarise_fleet
from asr_fed.simulation.oort import Memory
from asr_fed.simulation.record import CLIENTS, ROUNDS, append_times, read_client_times
from asr_fed.simulation.timetable import Timetable
from asr_fed.system.errors import UserError
from asr_fed.system.files import make_folder

TRAIN = "Train it with this simulation."
NO_FLEET = "Nothing says by what fleet: give simulation=phones, or another one."
Work = Mapping[str, float]  # the share of a whole round's work that each client did, by client


def account_again(run_dir: Path, config: Config, command: str) -> RunSummary:
    """Write the run of `run_dir` as it would be with `config`, of which simulation and carbon may be other ones, to
    `config.run_dir`, a new run directory.

    `command` is the one that would train such a run.

    Raises UserError where the run has not ended, where the new directory is there already, and where the other clock
    would have trained otherwise.
    """
    folder, summary = Path(config.run_dir), read_summary(run_dir)
    if folder.exists():
        raise UserError(f"{folder} is there already: give a folder that is not.")
    checkpoint = Path("checkpoints") / "federation.pt"
    state = load_federation(run_dir / checkpoint) if (run_dir / checkpoint).is_file() else None
    if state is None or not state.history:
        raise UserError(f"{run_dir} is no federation: it has no rounds whose time could be told.")
    experiment = replace(open_experiment(run_dir), config=config)
    tables = tables_of(experiment, state.history, read_config(run_dir))
    make_folder(folder.parent)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / folder.name
        shutil.copytree(run_dir, made, ignore=shutil.ignore_patterns(".lock", CLIENTS, ROUNDS, "flower"))
        write_config(config, made)
        for table in tables:
            append_times(made, table.clients, table.round)
        state = with_times(state, tables)
        write_history(made, state.history)
        save_federation(state, made / checkpoint)
        evaluations = {name: _tested(made / "evaluation" / name, experiment) for name in systems(config)}
        # The run's own device need not be here; what clients' speech is measured on has fixed weights.
        here = replace(experiment, run_dir=made, config=replace(config, device="auto"))
        again = write_accounts(here, state, replace(summary, command=command), evaluations)
        made.rename(folder)
    return again


def _tested(folder: Path, experiment: Experiment) -> Evaluation:
    """An evaluation of the test speakers, with their recordings and what is known of them, for the report."""
    speech = {utterance.id: utterance for utterance in experiment.partition.test}
    scored = read_evaluation(folder).scored
    return Evaluation(tuple(replace(each, utterance=speech[each.utterance.id]) for each in scored))


def plan(run_dir: Path, config: Config) -> dict[str, Any]:
    """What `summarise_fleet` says of the rounds of `config`, for the clients of the run in `run_dir`, without training.

    Raises UserError where there is no clock, or who is asked depends on what clients learn.
    """
    experiment = replace(open_experiment(run_dir), config=config)
    _check_clients(experiment)
    if config.simulation is not None and config.simulation.sampling is Sampling.oort:
        raise UserError("simulation.sampling=oort asks clients by their losses, which training has to tell.")
    time = virtual_time(experiment)
    if time is None:
        raise UserError(NO_FLEET)
    tables = list(islice(time.timetables(0, 0.0, Memory()), config.federation.rounds))
    assert config.simulation is not None
    return {
        **summarise_fleet([each for table in tables for each in table.clients], [table.round for table in tables]),
        "devices": config.simulation.devices,
        "network": config.simulation.network,
        "model_size": time.clock.size,
        "rounds": len(tables),
        "asynchronous": config.simulation.buffer is not None,
        "best_hours": None,
    }


def _check_clients(experiment: Experiment) -> None:
    if not experiment.partition.clients:
        raise UserError(f"{experiment.run_dir} is of a deployment: how much its clients have to do is not known here.")


def tables_of(experiment: Experiment, history: Sequence[RoundRecord], trained_as: Config) -> list[Timetable]:
    """The rounds by the clock of the experiment's config. `trained_as`: the config by which they were trained.

    Raises UserError where it would have had others train, or with other terms.
    """
    config = experiment.config
    _check_clients(experiment)
    if any(each.simulation is not None and each.simulation.buffer is not None for each in (config, trained_as)):
        raise UserError(f"simulation.buffer: in the asynchronous mode the clock says from what is trained. {TRAIN}")
    time, memory = virtual_time(experiment), Memory()
    if time is None:
        raise UserError(NO_FLEET)
    done, tables = work_done(experiment, history, trained_as), []
    for record, table in zip(history, time.timetables(0, 0.0, memory), strict=False):
        planned = {each.client: each.share_of_work for each in table.clients if each.arrived}
        if planned != done[record.round]:
            differing = sorted(dict(planned.items() ^ done[record.round].items()))
            raise UserError(
                f"In round {record.round} this fleet would have trained otherwise: {', '.join(differing[:3])}. {TRAIN}"
            )
        memory.add(record.round, list(table.terms), record.loss)
        tables.append(table)
    return tables


def work_done(experiment: Experiment, history: Sequence[RoundRecord], trained_as: Config) -> Mapping[int, Work]:
    """What each client did in each round: as its clock says, or without one all of the cohort all of it."""
    if trained_as.simulation is None:
        names, settings = sorted(client.id for client in experiment.partition.clients), trained_as.federation
        if settings.over_commit > 1:
            raise UserError(f"federation.over_commit: who arrived first is not known without a clock. {TRAIN}")
        asked, _ = asked_and_wanted(settings, len(names))
        return {
            record.round: dict.fromkeys(sample_cohort(names, asked, trained_as.seed, record.round), 1.0)
            for record in history
        }
    found: dict[int, dict[str, float]] = {record.round: {} for record in history}
    for each in read_client_times(experiment.run_dir):
        if each.arrived:
            found[each.round][each.client] = each.share_of_work
    return found


def with_times(state: FederationState, tables: Sequence[Timetable]) -> FederationState:
    ends = [table.round.end_s for table in tables]
    lasted = (table.round.end_s - table.round.begin_s for table in tables)
    history = tuple(
        replace(record, fleet_seconds=seconds) for record, seconds in zip(state.history, lasted, strict=True)
    )
    return replace(state, history=history, fleet_s=ends[-1] if ends else 0.0)
