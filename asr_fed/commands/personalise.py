"""`python -m asr_fed.personalise MODEL --manifest M`: a copy of a recogniser for each speaker of a manifest."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from asr_fed.commands.options import number_for
from asr_fed.config.check_learning import check_decoder
from asr_fed.config.schema import (
    Config,
    Decoder,
    EvaluationConfig,
    LossConfig,
    PersonalisationConfig,
    Tune,
)
from asr_fed.config.trust import check_run_trust
from asr_fed.data.identity import identity
from asr_fed.pipeline.personalise import Speech, personalise_speakers
from asr_fed.runs.run_dir import run_of
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status

DESCRIPTION = """\
Fine-tune a copy of a recogniser for each speaker of a manifest, on that speaker's own utterances, and measure the word
error rate before and after on utterances of the same speaker that were held back.

OUTPUT holds personalisation.csv (one row per speaker), before/ and after/ (what python -m asr_fed.evaluation writes),
and with --save speakers/SPEAKER.pt, the copies. A run that was stopped goes on when the same command is given again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m asr_fed.personalise", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="run directory, checkpoint or SpeechBrain folder")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.csv (ID,duration,wav,spk_id,wrd,...)")
    parser.add_argument("--split", help="only rows of this split, such as test")
    parser.add_argument("--speakers", nargs="+", type=identity, metavar="SPEAKER", help="only these")
    parser.add_argument("--held-back", type=float, default=0.3, help="share of each speaker's utterances (%(default)g)")
    parser.add_argument("--part", choices=[part.name for part in Tune], help="what may change (full)")
    parser.add_argument(
        "--epochs", type=number_for(PersonalisationConfig, "epochs"), help="passes over a speaker's utterances (10)"
    )
    parser.add_argument(
        "--lr", type=number_for(PersonalisationConfig, "lr"), help="learning rate (the one found for the part)"
    )
    parser.add_argument(
        "--ctc-weight",
        type=number_for(LossConfig, "ctc_weight"),
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
    parser.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="MODULE.",
        help="modules whose optimizers the run's config may name, besides torch.optim: naming an object runs it",
    )
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.personalise", lambda: _personalise(chosen))


def _personalise(chosen: argparse.Namespace) -> None:
    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.interop.speechbrain.reader import HYPERPARAMS
    from asr_fed.runs.experiment import read_config

    if not 0 < chosen.held_back < 1:
        raise UserError(f"--held-back {chosen.held_back:g}: a share of the utterances, between 0 and 1.")
    if chosen.threads < 1:
        raise UserError(f"--threads {chosen.threads}: at least 1.")
    run_dir = run_of(chosen.model)
    # A SpeechBrain folder always has an attention decoder; for a lone checkpoint of 0.1.0 it is unknown.
    known = None if run_dir else open_recogniser(chosen.model).ctc_weight
    unknown = LossConfig() if (chosen.model / HYPERPARAMS).is_file() else LossConfig(ctc_weight=1.0)
    loss = unknown if known is None else LossConfig(ctc_weight=known)
    alone = Config(loss=loss, evaluation=EvaluationConfig(test_decoder=Decoder.ctc_greedy))
    config = read_config(run_dir) if run_dir else alone
    if chosen.ctc_weight is not None:
        config.loss.ctc_weight = chosen.ctc_weight
    config.evaluation.test_decoder = Decoder[chosen.decoder] if chosen.decoder else config.evaluation.test_decoder
    evaluation = config.evaluation
    check_decoder(evaluation.test_decoder, evaluation.beam_ctc_weight, config.loss.ctc_weight, "--decoder")
    config.personalisation = settings = _settings(chosen, config.personalisation)
    if settings.lr is None and "Adam" not in settings.optimizer["_target_"]:
        raise UserError("The rates that are known are Adam's: with the run's personalisation.optimizer give --lr.")
    check_run_trust(OmegaConf.to_container(OmegaConf.structured(settings)), chosen.trust, run_dir)
    output = chosen.output or (run_dir or chosen.model.parent) / "personalised" / (
        f"{chosen.manifest.stem}-{settings.part.name}"
    )
    features = chosen.features or (
        Path(config.data.prepared) / "features" if run_dir else chosen.manifest.parent / "features"
    )
    personalise_speakers(
        chosen.model,
        Speech(chosen.manifest, chosen.split, chosen.speakers, chosen.held_back),
        config,
        features=features,
        output=output,
        save=chosen.save,
        seed=chosen.seed,
        device=chosen.device,
        threads=chosen.threads,
    )


def _settings(chosen: argparse.Namespace, settings: PersonalisationConfig) -> PersonalisationConfig:
    """Settings of the run, or defaults, changed by the command line."""
    if chosen.part is not None and Tune[chosen.part] is not settings.part:
        settings.part, settings.lr = Tune[chosen.part], None
    if chosen.epochs is not None:
        settings.epochs = chosen.epochs
    if chosen.lr is not None:
        settings.lr = chosen.lr
    return settings
