"""Personalise a recogniser for each speaker of a manifest: `python -m asr_fed.personalise MODEL --manifest M`."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from asr_fed.command import exit_status
from asr_fed.config.check import check_decoder
from asr_fed.config.schema import (
    ClientsConfig,
    Config,
    Decoder,
    EvaluationConfig,
    LossConfig,
    PersonalisationConfig,
    PersonalPart,
    Precision,
)
from asr_fed.runs.run_dir import run_of, write_text
from asr_fed.system.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from asr_fed.data.manifest import Utterance
    from asr_fed.data.partition import Client

DESCRIPTION = """\
Fine-tune a copy of a recogniser for each speaker of a manifest, on that speaker's own utterances, and measure the word
error rate before and after on utterances of the same speaker that were held back.

OUTPUT holds personalisation.csv (a row a speaker), before/ and after/ (what python -m asr_fed.evaluation writes), and
with --save speakers/SPEAKER.pt, the copies. A run that was stopped goes on when the same command is given again.
"""
HEARD = "heard.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m asr_fed.personalise", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="run directory, checkpoint or SpeechBrain folder")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.csv (ID,duration,wav,spk_id,wrd,...)")
    parser.add_argument("--split", help="only rows of this split, such as test")
    parser.add_argument("--speakers", nargs="+", metavar="SPEAKER", help="only these")
    parser.add_argument("--held-back", type=float, default=0.3, help="share of each speaker's utterances (%(default)g)")
    parser.add_argument("--part", choices=[part.name for part in PersonalPart], help="what may change (full)")
    parser.add_argument("--epochs", type=int, help="passes over a speaker's utterances (10)")
    parser.add_argument("--lr", type=float, help="learning rate (the one found for the part)")
    parser.add_argument(
        "--ctc-weight",
        type=float,
        help="of the loss, 0 to 1 (the run's; of a SpeechBrain folder 0.3, of a checkpoint alone 1)",
    )
    parser.add_argument(
        "--decoder", choices=[each.name for each in Decoder], help="(the run's; without a run ctc_greedy)"
    )
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument(
        "--output", type=Path, help="folder to write (personalised/MANIFEST-PART in the run, or beside the model)"
    )
    parser.add_argument("--save", action="store_true", help="keep each speaker's copy")
    parser.add_argument("--features", type=Path, help="feature cache (the run's, else beside the manifest)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more are slower beside other work (1)")
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.personalise", lambda: _personalise(chosen))


def _personalise(chosen: argparse.Namespace) -> None:
    from asr_fed.interop.speechbrain_folder import HYPERPARAMS
    from asr_fed.runs.experiment import read_config

    if not 0 < chosen.held_back < 1:
        raise UserError(f"--held-back {chosen.held_back:g}: a share of the utterances, between 0 and 1.")
    if chosen.threads < 1:
        raise UserError(f"--threads {chosen.threads}: at least 1.")
    run_dir = run_of(chosen.model)
    # A SpeechBrain folder always has an attention decoder; of a checkpoint alone nobody knows.
    loss = LossConfig() if (chosen.model / HYPERPARAMS).is_file() else LossConfig(ctc_weight=1.0)
    alone = Config(loss=loss, evaluation=EvaluationConfig(test_decoder=Decoder.ctc_greedy))
    config = read_config(run_dir) if run_dir else alone
    if chosen.ctc_weight is not None:
        config.loss.ctc_weight = _within(chosen.ctc_weight, "--ctc-weight", 0, 1)
    config.evaluation.test_decoder = Decoder[chosen.decoder] if chosen.decoder else config.evaluation.test_decoder
    check_decoder(config.evaluation.test_decoder, config.loss.ctc_weight, "the decoder")
    settings = _settings(chosen, config.personalisation)
    output = chosen.output or (run_dir or chosen.model.parent) / "personalised" / (
        f"{chosen.manifest.stem}-{settings.part.name}"
    )
    features = chosen.features or (
        Path(config.data.prepared) / "features" if run_dir else chosen.manifest.parent / "features"
    )
    personalise_speakers(chosen, config, settings, features, output)


def _settings(chosen: argparse.Namespace, settings: PersonalisationConfig) -> PersonalisationConfig:
    """Those of the run, or by default, and what the command line says of them."""
    if chosen.part is not None and PersonalPart[chosen.part] is not settings.part:
        settings.part, settings.lr = PersonalPart[chosen.part], None
    if chosen.epochs is not None:
        settings.epochs = int(_within(chosen.epochs, "--epochs", 0, 10_000))
    if chosen.lr is not None:
        settings.lr = _within(chosen.lr, "--lr", 0, 100)
    return settings


def _within(value: float, option: str, least: float, most: float) -> float:
    if not least <= value <= most:
        raise UserError(f"{option} {value:g}: a number from {least:g} to {most:g}.")
    return value


def personalise_speakers(
    chosen: argparse.Namespace, config: Config, settings: PersonalisationConfig, features: Path, output: Path
) -> None:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from asr_fed.data.features import build_features
    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.model.recogniser import save_recogniser
    from asr_fed.model.state import read_state, state_sha256
    from asr_fed.runs.experiment import pick_device
    from asr_fed.system.processes import available_cores, keep_freed_memory
    from asr_fed.training.epoch import TrainingContext
    from asr_fed.training.personalise import learning_rate, personalise_client

    keep_freed_memory()
    torch.set_num_threads(chosen.threads)
    device = pick_device(chosen.device)
    clients = speakers_of(chosen)
    recogniser = open_recogniser(chosen.model)
    weights = read_state(recogniser.model)
    recogniser.model.to(device)
    speech = [utterance for client in clients for utterance in client.utterances]
    cache = build_features(
        speech, recogniser.features, features, speeds=config.augment.speeds, processes=available_cores()
    )
    context = TrainingContext(recogniser, cache, config.augment, config.loss, Precision.fp32, device)
    about = {
        "recogniser": str(chosen.model),
        "weights_sha256": state_sha256(weights),
        "speech": str(chosen.manifest) + (f", split {chosen.split}" if chosen.split else ""),
        "held_back": chosen.held_back,
        "part": settings.part.name,
        "epochs": settings.epochs,
        "lr": learning_rate(settings),
        "ctc_weight": config.loss.ctc_weight,
        "decoder": config.evaluation.test_decoder.name,
        "seed": chosen.seed,
        "threads": chosen.threads,
    }

    def copy_of(speaker: str) -> Path:
        return output / "speakers" / f"{quote(speaker, safe='')}.pt"

    due = {client.id: digest(client) for client in clients if not chosen.save or copy_of(client.id).is_file()}
    heard = heard_before(output / HEARD, about, due)
    console = Console(highlight=False)
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
                evaluation=config.evaluation,
                seed=chosen.seed,
            )
            if chosen.save:
                save_recogniser(recogniser, copy_of(client.id))
            heard[client.id] = {"before": gain.before.hypotheses, "after": gain.after.hypotheses}
            add_line(output / HEARD, {"speaker": client.id, "utterances": digest(client), **heard[client.id]})
            bars.advance(bar)
    write_gains(output, clients, heard, about, console)


def speakers_of(chosen: argparse.Namespace) -> "list[Client]":
    """A client for each speaker, with the held-back utterances as its dev part.

    Raises UserError where a speaker that was asked for is not there, or none has two utterances.
    """
    from asr_fed.data.manifest import read_manifest
    from asr_fed.data.partition import make_client

    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in sorted(read_manifest(chosen.manifest), key=lambda each: each.id):
        if chosen.split in (None, utterance.split):
            by_speaker.setdefault(utterance.speaker, []).append(utterance)
    if missing := set(chosen.speakers or ()) - by_speaker.keys():
        raise UserError(f"{chosen.manifest} has no speaker {', '.join(sorted(missing))}.")
    rule = ClientsConfig(dev_fraction=chosen.held_back, dev_min_utterances=2)
    clients = [
        make_client(speaker, tuple(own), rule, chosen.seed)
        for speaker, own in sorted(by_speaker.items())
        if len(own) >= 2 and (chosen.speakers is None or speaker in chosen.speakers)
    ]
    if not clients:
        raise UserError(f"{chosen.manifest} has no speaker with two utterances: one to train on, one to hold back.")
    return clients


def digest(client: "Client") -> str:
    """Of what a speaker's copy is trained and judged on."""
    parts = [[(utterance.id, utterance.text) for utterance in part] for part in (client.train, client.dev)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def heard_before(path: Path, about: Mapping[str, Any], due: Mapping[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """By speaker, what an earlier run of the same command has heard; a first line in `path` tells which command.

    What is about other speakers or utterances than `due` (a digest for each speaker) is dropped.

    Raises UserError where that was another one.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have cut the last
    if whole and whole[0] != about:
        differing = ", ".join(sorted(key for key in about if whole[0].get(key) != about[key]))
        raise UserError(f"{path.parent} holds the result of another {differing}. Give another --output.")
    kept = [line for line in whole[1:] if due.get(line["speaker"]) == line["utterances"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(line) + "\n" for line in (about, *kept)))
    return {line["speaker"]: {when: line[when] for when in ("before", "after")} for line in kept}


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Raises UserError where it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. The same command then goes on.") from error


def write_gains(
    output: Path,
    clients: "Sequence[Client]",
    heard: Mapping[str, Mapping[str, Mapping[str, str]]],
    about: Mapping[str, Any],
    console: "Console",
) -> None:
    """before/, after/ and personalisation.csv, and the gist of them on `console`."""
    from asr_fed.evaluation.evaluate import Evaluation
    from asr_fed.evaluation.statistics import paired_test
    from asr_fed.evaluation.wer import score
    from asr_fed.reporting.evaluation_files import describe_pair, numbers, write_csv, write_evaluation
    from asr_fed.reporting.progress import result_table

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
            {"before": numbers(before), "after": numbers(after)}, f"held-back speech of {len(clients)} speakers"
        )
    )
    console.print(f"{describe_pair(gain)}; better for {better} speakers, worse for {worse}.", soft_wrap=True)
    console.print(f"Results are in {output}.", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
