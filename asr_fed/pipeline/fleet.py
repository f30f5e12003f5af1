"""What a run found out about its simulated fleet: hours, who was late, and for whom the recogniser works."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from asr_fed.config.schema import TaskKind
from asr_fed.data.partition import Client
from asr_fed.data.untranscribed import transcribed
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.evaluation.wer import ErrorCounts, total
from asr_fed.federation.state import FederationState
from asr_fed.model.recogniser import load_recogniser
from asr_fed.runs.experiment import Experiment, pick_device
from asr_fed.simulation.fleet import Fleet
from asr_fed.simulation.heard import HOUR, Heard, summarise_fleet, who_is_heard
from asr_fed.simulation.record import read_client_times, read_round_times
from asr_fed.system.files import write_csv

HEARD = "simulation_heard.csv"
OF_A_SPEAKER = ("gender", "accent")
UNKNOWN, SEVERAL = "not known", "several"


def summarise_run_of_fleet(
    experiment: Experiment, federation: FederationState | None, parameters: int
) -> dict[str, Any] | None:
    """What summary.json says of the fleet, None where the run has none; `simulation_heard.csv` in the run directory.

    parameters: of the model, with those that are frozen.
    """
    simulation = experiment.config.simulation
    if simulation is None or federation is None or not federation.history:
        return None
    clients, rounds = read_client_times(experiment.run_dir), read_round_times(experiment.run_dir)
    best = next((each for each in rounds if each.round == federation.best_round), None)
    heard = heard_in_run(experiment)
    write_csv(experiment.run_dir / HEARD, [asdict(row) for row in heard])
    return {
        **summarise_fleet(clients, rounds),
        "devices": simulation.devices,
        "network": simulation.network,
        "model_size": parameters / simulation.reference.parameters,
        "rounds": len(rounds),
        "asynchronous": simulation.buffer is not None,
        "best_hours": best.end_s / HOUR if best else None,
        "best_wer": federation.best_wer if recognises(experiment) else None,
        "heard": [asdict(row) for row in heard],
    }


def heard_in_run(experiment: Experiment) -> list[Heard]:
    """By class of device, and by gender and accent of the clients' speakers where the corpus knows them.

    The WER is that of the federation's recogniser on speech that clients held back, which only clients of this machine
    let anybody hear.
    """
    config, owners = experiment.config, experiment.partition.clients
    assert config.simulation is not None
    times = read_client_times(experiment.run_dir)
    names = [client.id for client in owners] or sorted({each.client for each in times})
    fleet = Fleet.read(config.simulation, config.seed)
    groups = {"device": {name: fleet.hardware(name).device.name for name in names}}
    for column in OF_A_SPEAKER:
        found = {client.id: value_of(client, column) for client in owners}
        if set(found.values()) - {UNKNOWN}:
            groups[column] = found
    words = words_by_client(experiment) if recognises(experiment) else {}
    return [row for by, group in groups.items() for row in who_is_heard(by, group, times, wers(group, words))]


def recognises(experiment: Experiment) -> bool:
    """A pre-training has no words, and its state's best WER is a loss."""
    return experiment.config.task.kind is TaskKind.recognition


def value_of(client: Client, column: str) -> str:
    """What all its utterances say of their speaker."""
    values = {getattr(utterance, column) for utterance in client.utterances}
    return (values.pop() or UNKNOWN) if len(values) == 1 else SEVERAL


def words_by_client(experiment: Experiment) -> dict[str, ErrorCounts]:
    """Word errors on each client's own dev speech."""
    config = experiment.config
    owner = {utterance.id: client.id for client in experiment.partition.clients for utterance in client.dev}
    speech = transcribed(utterance for client in experiment.partition.clients for utterance in client.dev)
    if not speech:
        return {}
    device = pick_device(config.device)
    recogniser = load_recogniser(experiment.checkpoints / "federated.pt")
    recogniser.model.to(device)
    heard = evaluate(recogniser, speech, experiment.cache, config.evaluation.dev_decoder, config.evaluation, device)
    by_client: dict[str, list[ErrorCounts]] = {}
    for each in heard.scored:
        by_client.setdefault(owner[each.utterance.id], []).append(each.words)
    return {name: total(counts) for name, counts in by_client.items()}


def wers(groups: Mapping[str, str], words: Mapping[str, ErrorCounts]) -> dict[str, float]:
    """Percent, by group, of those that have words."""
    found: dict[str, list[ErrorCounts]] = {}
    for client, group in groups.items():
        if client in words:
            found.setdefault(group, []).append(words[client])
    return {group: total(counts).percent for group, counts in found.items()}
