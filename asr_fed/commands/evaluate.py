"""Evaluate a recogniser on a manifest: `python -m asr_fed.evaluation MODEL --manifest M`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_fed.commands.options import number_for
from asr_fed.config.schema import Config, Decoder, EvaluationConfig
from asr_fed.runs.run_dir import run_of
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import make_folder

if TYPE_CHECKING:
    from asr_fed.data.manifest import Utterance

DESCRIPTION = """\
Decode the recordings of a manifest and count the errors: wer_report.txt (every alignment), wer.json (intervals,
groups, confusions), per_utterance.csv, per_speaker.csv.

With a run directory and no manifest, its recognisers are tested on the run's own test speakers again, and its
summary.json, evaluation/ and report.html are written again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m asr_fed.evaluation", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a run directory, a checkpoint or a SpeechBrain folder")
    parser.add_argument("--manifest", type=Path, help="manifest.csv (ID,duration,wav,spk_id,wrd,...)")
    parser.add_argument("--split", help="only rows of this split, such as test")
    parser.add_argument("--decoder", choices=[each.name for each in Decoder], help="as the run has it, else ctc_greedy")
    parser.add_argument("--beam-size", type=number_for(EvaluationConfig, "beam_size"))
    parser.add_argument("--beam-ctc-weight", type=number_for(EvaluationConfig, "beam_ctc_weight"))
    parser.add_argument("--beam-eos-threshold", type=number_for(EvaluationConfig, "beam_eos_threshold"))
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another evaluation's output, to compare with")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder to write (default: evaluation/MODEL-MANIFEST-DECODER in the run, or beside the checkpoint)",
    )
    parser.add_argument("--features", type=Path, help="feature cache (default: the run's, else beside the manifest)")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.evaluation", lambda: _evaluate(chosen))


def _evaluate(chosen: argparse.Namespace) -> None:
    run_dir = run_of(chosen.model)
    config = _run_config(run_dir)
    settings = config.evaluation if config else EvaluationConfig(test_decoder=Decoder.ctc_greedy)
    settings.test_decoder = Decoder[chosen.decoder] if chosen.decoder else settings.test_decoder
    settings.beam_size = settings.beam_size if chosen.beam_size is None else chosen.beam_size
    settings.beam_ctc_weight = settings.beam_ctc_weight if chosen.beam_ctc_weight is None else chosen.beam_ctc_weight
    settings.beam_eos_threshold = (
        settings.beam_eos_threshold if chosen.beam_eos_threshold is None else chosen.beam_eos_threshold
    )
    if chosen.manifest is not None:
        _on_manifest(chosen, run_dir, config, settings)
    elif run_dir is not None and chosen.model == run_dir:
        from asr_fed.pipeline.results import test_again

        given = [
            f"--{name}" for name in ("split", "against", "output", "features") if getattr(chosen, name) is not None
        ]
        if given:
            raise UserError(
                f"{' and '.join(given)} would not be used without --manifest: the run's own test speakers are decoded "
                f"again, and its results in {run_dir} written again. Give a manifest, or leave this out."
            )
        test_again(run_dir, settings, chosen.device)
    else:
        raise UserError(f"Evaluate {chosen.model} on what? Give --manifest FILE.")


def _on_manifest(
    chosen: argparse.Namespace, run_dir: Path | None, config: Config | None, settings: EvaluationConfig
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from asr_fed.data.features import build_features
    from asr_fed.data.manifest import read_manifest
    from asr_fed.data.tokenizer import describe_unknown
    from asr_fed.evaluation.evaluate import describe_decoder, evaluate
    from asr_fed.evaluation.statistics import describe_pair, paired_test
    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.reporting.evaluation_files import numbers, own_folder, read_evaluation, write_evaluation
    from asr_fed.reporting.progress import result_table
    from asr_fed.runs.experiment import check_trained, pick_device
    from asr_fed.runs.summary import SystemResult
    from asr_fed.system.processes import available_cores

    device = pick_device(chosen.device)
    earlier = read_evaluation(chosen.against) if chosen.against else None
    speech = _chosen_speech(read_manifest(chosen.manifest), chosen)
    recogniser = open_recogniser(chosen.model)
    check_trained(recogniser, settings.test_decoder, settings.beam_ctc_weight, run_dir)
    recogniser.model.to(device)
    folder = (run_dir or chosen.model.parent) / "evaluation"
    make_folder(chosen.output or folder)  # fails before the work if it cannot be written
    cache = chosen.features or (
        Path(config.data.prepared) / "features" if config else chosen.manifest.parent / "features"
    )
    features = build_features(speech, recogniser.features, cache, processes=available_cores())
    console = Console(highlight=False, markup=False, emoji=False)
    if remark := describe_unknown(recogniser.tokenizer, (utterance.text for utterance in speech)):
        console.print(remark, soft_wrap=True)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("decoding", total=len(speech))
        result = evaluate(
            recogniser,
            speech,
            features,
            settings.test_decoder,
            settings,
            device,
            on_batch=lambda utterances: progress.advance(bar, utterances),
        )
    name = chosen.model.stem if chosen.model.is_file() else "model"
    about = {
        "recogniser": str(chosen.model),
        "speech": str(chosen.manifest) + (f", split {chosen.split}" if chosen.split else ""),
        **describe_decoder(settings.test_decoder, settings),
        **({"remark": remark} if remark else {}),
    }
    against = {}
    if earlier is not None:
        try:
            against[str(chosen.against)] = paired_test(result, earlier)
        except ValueError as error:
            raise UserError(f"--against {chosen.against}: {error}. Evaluate both on the same manifest.") from None
    output = chosen.output or own_folder(folder, _folder_name(name, chosen, settings), about)
    write_evaluation(output, result, about, against)
    console.print(result_table({name: SystemResult(**numbers(result))}, f"{len(result.speakers)} speakers"))
    for other, paired in against.items():
        console.print(f"against {other}: {describe_pair(paired)}", soft_wrap=True)
    console.print(f"Results are in {output}.", soft_wrap=True)


def _folder_name(model: str, chosen: argparse.Namespace, settings: EvaluationConfig) -> str:
    """The manifest's name, or its folder's name if it is called manifest.csv, like that of every prepared corpus."""
    manifest = chosen.manifest.resolve()
    speech = manifest.parent.name if manifest.stem == "manifest" else manifest.stem
    return "-".join(part for part in (model, speech, chosen.split, settings.test_decoder.name) if part)


def _chosen_speech(utterances: "list[Utterance]", chosen: argparse.Namespace) -> "list[Utterance]":
    speech = [each for each in utterances if chosen.split is None or each.split == chosen.split]
    if not speech:
        splits = ", ".join(sorted({each.split or "none" for each in utterances}))
        what = f"split {chosen.split} (it has: {splits})" if utterances else "utterances"
        raise UserError(f"{chosen.manifest} has no {what}.")
    return speech


def _run_config(run_dir: Path | None) -> Any:
    if run_dir is None:
        return None
    from asr_fed.runs.experiment import read_config

    return read_config(run_dir)
