"""`python -m asr_fed.export MODEL FOLDER`: a folder for SpeechBrain or transformers; docs/take_the_model_away.md."""

import argparse
from pathlib import Path

from asr_fed.config.schema import Decoder, EncoderKind
from asr_fed.runs.run_dir import run_of
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Exits with 2 where the user has something to correct."""
    parser = argparse.ArgumentParser(
        prog="python -m asr_fed.export",
        description="Write a folder that SpeechBrain's EncoderDecoderASR.from_hparams(source=FOLDER) opens, or "
        "transformers where the encoder is one of theirs.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a run directory, a checkpoint or a SpeechBrain folder"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--decoder",
        choices=[decoder.name for decoder in Decoder],
        help="what the folder transcribes with; default: test_decoder of the run, ctc_greedy for a checkpoint alone",
    )
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.export", lambda: _export(chosen.model, chosen.folder, chosen.decoder))


def _export(model: Path, folder: Path, decoder: str | None) -> None:
    from asr_fed.interop.huggingface_writer import export_to_huggingface
    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.interop.speechbrain.writer import export_recogniser
    from asr_fed.runs.experiment import check_trained, evaluation_of
    from asr_fed.runs.summary import SUMMARY, read_summary

    recogniser = open_recogniser(model)
    if recogniser.model_config.encoder is EncoderKind.pretrained:
        if decoder not in (None, Decoder.ctc_greedy.name):
            raise UserError(
                f"--decoder {decoder} is not for transformers: a recogniser with an encoder of others is exported with "
                "its CTC head, ctc_greedy."
            )
        check_trained(recogniser, Decoder.ctc_greedy, 0.0, run_of(model))
        export_to_huggingface(recogniser, folder)
        print(f"{folder} is opened by transformers, and by asr_fed. Its README.md says how.")
        return
    evaluation = evaluation_of(model)
    used = evaluation.test_decoder if decoder is None else Decoder[decoder]
    check_trained(recogniser, used, evaluation.beam_ctc_weight, run_of(model))
    summary = vars(read_summary(model)) if (model / SUMMARY).is_file() else None
    export_recogniser(recogniser, folder, used, evaluation, summary)
    print(f"{folder} transcribes with {used.name}. Its README.md says how to open it.")
