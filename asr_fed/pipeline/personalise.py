"""Personalise a recogniser for each speaker of a manifest, one copy each, and measure the gain."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from omegaconf import OmegaConf

from asr_fed.config.model import SEARCH
from asr_fed.config.schema import ClientsConfig, Config, Decoder, Precision
from asr_fed.system.errors import UserError
from asr_fed.system.files import cannot_be_written, make_folder, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from asr_fed.data.manifest import Utterance
    from asr_fed.data.partition import Client

HEARD = "heard.jsonl"


@dataclass(frozen=True)
class Speech:
    """Rows of `manifest`: those of `split` (None: all) by `speakers` (None: all).

    The share `held_back` (between 0 and 1) of each speaker's utterances is for measuring.
    """

    manifest: Path
    split: str | None
    speakers: Sequence[str] | None
    held_back: float


def personalise_speakers(
    model: Path,
    spoken: Speech,
    config: Config,
    *,
    features: Path,
    output: Path,
    save: bool,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Write the gain of `config.personalisation` for each speaker to `output`, and with `save` the copies.

    Args:
        model: run directory, checkpoint or SpeechBrain folder.
        features: folder of the feature cache.

    Speakers that an earlier call has written to `output` are not done again. Raises UserError if that call had other
    settings, or if there is no such speech.
    """
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from asr_fed.config.check_learning import check_part
    from asr_fed.data.alignable import alignable, describe_impossible, keep_alignable
    from asr_fed.data.features import add_speeds, build_features
    from asr_fed.data.partition import Partition
    from asr_fed.data.tokenizer import describe_unknown
    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.model.backbone import count_states
    from asr_fed.model.recogniser import save_recogniser
    from asr_fed.model.state import read_state, state_sha256
    from asr_fed.runs.experiment import pick_device
    from asr_fed.system.processes import available_cores, keep_freed_memory
    from asr_fed.tasks.personalise import learning_rate, personalise_client
    from asr_fed.tasks.recognition import Recognition

    keep_freed_memory()
    torch.set_num_threads(threads)
    place = pick_device(device)
    settings = config.personalisation
    clients = speakers_of(spoken, seed)
    recogniser = open_recogniser(model)
    check_part(settings.part, recogniser.model_config, f"--part {settings.part.name}")
    weights = read_state(recogniser.model)
    recogniser.model.to(place)
    speech = [utterance for client in clients for utterance in client.utterances]
    cores = available_cores()
    cache = build_features(speech, recogniser.features, features, processes=cores)
    console = Console(highlight=False, markup=False, emoji=False)
    if config.loss.ctc_weight > 0:  # training speech only; held-back speech stays complete
        speakers = Partition((), (), (), (), tuple(replace(client, dev=()) for client in clients))
        fits = alignable(cache, recogniser.tokenizer, partial(count_states, recogniser.model_config))
        speakers = keep_alignable(speakers, fits, most=1.0)
        if impossible := describe_impossible(speakers):
            console.print(impossible, soft_wrap=True)
        held_back = {client.id: client.dev for client in clients}
        clients = [replace(client, dev=held_back[client.id]) for client in speakers.clients]
    trained_on = [utterance for client in clients for utterance in client.train]
    cache = add_speeds(cache, trained_on, config.augment.speeds, recogniser.features, processes=cores)
    context = Recognition(recogniser, cache, config.augment, config.loss, config.evaluation, Precision.fp32, place)
    search = {name: value for name, value in vars(config.evaluation).items() if name.startswith(SEARCH)}
    about = {
        **OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True),  # type: ignore[dict-item]
        **(search if config.evaluation.test_decoder is Decoder.beam else {}),
        "recogniser": str(model),
        "weights_sha256": state_sha256(weights),
        "speech": str(spoken.manifest) + (f", split {spoken.split}" if spoken.split else ""),
        "held_back": spoken.held_back,
        "part": settings.part.name,
        "epochs": settings.epochs,
        "lr": learning_rate(settings),
        "ctc_weight": config.loss.ctc_weight,
        "decoder": config.evaluation.test_decoder.name,
        "seed": seed,
        "threads": threads,
    }

    def copy_of(speaker: str) -> Path:
        return output / "speakers" / f"{quote(speaker, safe='')}.pt"

    due = {client.id: digest(client) for client in clients if not save or copy_of(client.id).is_file()}
    heard = heard_before(output / HEARD, about, due)
    if remark := describe_unknown(recogniser.tokenizer, (utterance.text for utterance in speech)):
        console.print(remark, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("speakers", total=len(clients), completed=len(heard))
        for client in clients:
            if client.id in heard:
                continue
            gain = personalise_client(
                context,
                client,
                weights,
                config=settings,
                decoder=config.evaluation.test_decoder,
                seed=seed,
            )
            if save:
                save_recogniser(recogniser.trained_by(config.loss), copy_of(client.id))
            heard[client.id] = {"before": gain.before.hypotheses, "after": gain.after.hypotheses}
            add_line(output / HEARD, {"speaker": client.id, "utterances": digest(client), **heard[client.id]})
            bars.advance(bar)
    write_gains(output, clients, heard, about, console)


def speakers_of(spoken: Speech, seed: int) -> "list[Client]":
    """A client for each speaker, with the held-back utterances as its dev part.

    Raises UserError if a requested speaker is not there, or if no speaker has two utterances.
    """
    from asr_fed.data.deal import make_client
    from asr_fed.data.manifest import read_manifest

    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in sorted(read_manifest(spoken.manifest), key=lambda each: each.id):
        if spoken.split in (None, utterance.split):
            by_speaker.setdefault(utterance.speaker, []).append(utterance)
    if missing := set(spoken.speakers or ()) - by_speaker.keys():
        raise UserError(f"{spoken.manifest} has no speaker {', '.join(sorted(missing))}.")
    rule = ClientsConfig(dev_fraction=spoken.held_back, dev_min_utterances=2)
    clients = [
        make_client(speaker, tuple(own), rule, seed)
        for speaker, own in sorted(by_speaker.items())
        if len(own) >= 2 and (spoken.speakers is None or speaker in spoken.speakers)
    ]
    if not clients:
        raise UserError(f"{spoken.manifest} has no speaker with two utterances: one to train on, one to hold back.")
    return clients


def digest(client: "Client") -> str:
    """A hash of the speech that a speaker's copy is trained and evaluated on."""
    parts = [[(utterance.id, utterance.text) for utterance in part] for part in (client.train, client.dev)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def heard_before(path: Path, about: Mapping[str, Any], due: Mapping[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """Results of an earlier run of the same command, by speaker; the first line of `path` identifies the command.

    Results for other speakers or utterances than in `due` (a digest per speaker) are dropped.

    Raises UserError if it was another command.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be cut by a kill
    if whole and whole[0] != about:
        differing = ", ".join(sorted(key for key in about if whole[0].get(key) != about[key]))
        raise UserError(f"{path.parent} holds the result of another {differing}. Give another --output.")
    kept = [line for line in whole[1:] if due.get(line["speaker"]) == line["utterances"]]
    make_folder(path.parent)
    write_text(path, "".join(json.dumps(line) + "\n" for line in (about, *kept)))
    return {line["speaker"]: {when: line[when] for when in ("before", "after")} for line in kept}


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError where it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(f"{cannot_be_written(path, error)} The same command then goes on.") from error


def write_gains(
    output: Path,
    clients: "Sequence[Client]",
    heard: Mapping[str, Mapping[str, Mapping[str, str]]],
    about: Mapping[str, Any],
    console: "Console",
) -> None:
    """Write before/, after/ and personalisation.csv, and print a summary on `console`."""
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.evaluation.statistics import describe_pair, paired_test
    from asr_fed.evaluation.wer import score
    from asr_fed.reporting.evaluation_files import numbers, write_evaluation
    from asr_fed.reporting.progress import result_table
    from asr_fed.runs.summary import SystemResult
    from asr_fed.system.files import write_csv

    held_back = [utterance for client in clients for utterance in client.dev]
    before, after = (
        Evaluation(score(held_back, [heard[utterance.speaker][when][utterance.id] for utterance in held_back]))
        for when in ("before", "after")
    )
    gain = paired_test(after, before)
    write_evaluation(output / "before", before, about)
    write_evaluation(output / "after", after, about, {"before": gain})
    rows = []
    for client in clients:
        old, new = before.speakers[client.id], after.speakers[client.id]
        rows.append(
            {
                "speaker": client.id,
                "utterances": len(client.train),
                "seconds": f"{sum(utterance.duration for utterance in client.train):.2f}",
                "held_back": len(client.dev),
                "words": old.units,
                "wer_before": f"{old.percent:.2f}",
                "wer_after": f"{new.percent:.2f}",
            }
        )
    write_csv(output / "personalisation.csv", rows)
    better = sum(after.speakers[client.id].errors < before.speakers[client.id].errors for client in clients)
    worse = sum(after.speakers[client.id].errors > before.speakers[client.id].errors for client in clients)
    console.print(
        result_table(
            {"before": SystemResult(**numbers(before)), "after": SystemResult(**numbers(after))},
            f"held-back speech of {len(clients)} speakers",
        )
    )
    console.print(f"{describe_pair(gain)}; better for {better} speakers, worse for {worse}.", soft_wrap=True)
    console.print(f"Results are in {output}.", soft_wrap=True)
