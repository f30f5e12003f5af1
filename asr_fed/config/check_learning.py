"""Refuse what is to be learned, tuned or decoded where the rest of the config contradicts it."""

from asr_fed.config.schema import (
    Config,
    Decoder,
    EncoderKind,
    Late,
    Mode,
    ModelConfig,
    TaskKind,
    Tune,
)
from asr_fed.system.errors import UserError


def check_decoder(decoder: Decoder, beam_ctc_weight: float, ctc_weight: float | None, key: str) -> None:
    """Raises UserError, naming the `key` that chose the decoder, if the decoder needs a part that was not trained.

    ctc_weight: of the loss that trains or trained the model; None if unknown.
    """
    searches = decoder is Decoder.beam
    needs_ctc = decoder is Decoder.ctc_greedy or (searches and beam_ctc_weight > 0)
    needs_attention = decoder is Decoder.attention_greedy or (searches and beam_ctc_weight < 1)
    name = f"{key}={decoder.name}" + (f" with a beam_ctc_weight of {beam_ctc_weight:g}" if searches else "")
    if ctc_weight == 0 and needs_ctc:
        raise UserError(
            f"{name} needs the CTC head, which a loss.ctc_weight of 0 does not train. Use attention_greedy, or beam "
            "with a beam_ctc_weight of 0."
        )
    if ctc_weight == 1 and needs_attention:
        raise UserError(
            f"{name} needs the attention decoder, which a loss.ctc_weight of 1 does not train. Use ctc_greedy, or beam "
            "with a beam_ctc_weight of 1."
        )


def check_part(part: Tune, model: ModelConfig, told: str) -> None:
    """Raises UserError, which begins with how the part was `told`, where the model does not have it."""
    if part is Tune.lora and model.encoder is EncoderKind.crdnn:
        raise UserError(
            f"{told} is for encoders of linear layers (model=conformer_tiny, model=conformer, model=pretrained): with "
            "a CRDNN train norm_bias."
        )
    if part is Tune.adapters and not model.adapters:
        raise UserError(f"{told} trains adapters, of which there are none: train the model with model.adapters=64.")


def check_tune(settings: Config) -> None:
    tune = settings.federation.tune
    check_part(tune, settings.model, f"federation.tune={tune.name}")
    if settings.personalise or settings.task.kind.pretrains:
        other = "personalise=true" if settings.personalise else f"task.kind={settings.task.kind.name}"
        raise UserError(f"federation.tune={tune.name} and {other} do not go together: set federation.tune=full.")


def check_pretraining(settings: Config) -> None:
    told = f"task.kind={settings.task.kind.name}"
    if settings.model.encoder is EncoderKind.pretrained:
        raise UserError(f"{told} trains encoders of log-mel frames from scratch: use another model.")
    given = [name for name in ("checkpoint", "encoder") if getattr(settings.warm_start, name) is not None]
    if given:
        raise UserError(f"{told} starts from random weights: set warm_start.{given[0]}=null.")
    if settings.personalise:
        raise UserError(f"personalise=true fine-tunes recognisers, and {told} trains none: set it to false.")
    if settings.weighting["_target_"].endswith("WerSoftmax"):
        raise UserError(
            f"{told} has no word errors to weigh clients by: set weighting=num_examples or weighting=loss_softmax."
        )
    if settings.task.level_codes and settings.task.kind is not TaskKind.best_rq:
        raise UserError(f"task.level_codes=true is of BEST-RQ's codes, and {told} has none: set it to false.")


def trains_held_out(settings: Config) -> bool:
    """Whether the server trains on speech of its own after each aggregation."""
    held_out = settings.federation.held_out
    return held_out.epochs > 0 and (held_out.replay_warm_up or settings.data.parts.held_out_speakers > 0)


def check_fed_vssl(settings: Config) -> None:
    """Its head is in no update: the server's own is trained on the server's speech, or stays random."""
    if not trains_held_out(settings):
        raise UserError(
            "algorithm=fed_vssl leaves the prediction head with each client, and the server's is trained on the "
            "server's own speech alone: without it neither the loss nor the best round means anything. Set "
            "federation.held_out.epochs=1, with federation.held_out.replay_warm_up or data.parts.held_out_speakers."
        )
    simulation = settings.simulation
    if settings.federation.buffer is not None or (
        simulation is not None and (simulation.buffer is not None or simulation.late is Late.partial)
    ):
        raise UserError(
            "algorithm=fed_vssl has no rule for updates that are old or of part of a round: choose another algorithm, "
            "or leave out federation.buffer, simulation.buffer and simulation.late=partial."
        )


def check_held_out(settings: Config) -> None:
    """The server trains with the clients' optimizer where it has none of its own. A file's rate for it is then seldom
    right where the clients' optimizer was changed. Of SGD, for which most files are written, any rate is taken."""
    federation, held_out = settings.federation, settings.federation.held_out
    name = federation.optimizer["_target_"].rpartition(".")[2]
    inherited = trains_held_out(settings) and held_out.optimizer is None
    if inherited and name != "SGD" and held_out.lr > federation.lr:
        raise UserError(
            f"federation.held_out.lr={held_out.lr:g} is larger than the clients' {federation.lr:g}, and the server "
            f"trains with their {name} on its own speech after each round: set federation.held_out.lr, such as "
            f"{federation.lr / 2:g}, or federation.held_out.optimizer, or federation.held_out.epochs=0."
        )


def check_head(settings: Config) -> None:
    """FedVSSL leaves the head of a pre-training where it is, and a recogniser has none of that name."""
    algorithm = settings.algorithm
    if algorithm["_target_"].endswith("FedVssl") and algorithm.get("head", "head.") == "head.":
        raise UserError(
            "algorithm=fed_vssl is for a pre-training, whose prediction head stays with each client: a recogniser "
            "has none. Choose another algorithm."
        )


def check_pseudo_labels(settings: Config) -> None:
    labels = settings.federation.pseudo_labels
    if settings.task.kind.pretrains:
        raise UserError(
            f"task.kind={settings.task.kind.name} needs no transcripts, and makes none: set "
            "federation.pseudo_labels.every=null."
        )
    if settings.personalise:
        raise UserError(
            "personalise=true measures on transcripts that federation.pseudo_labels.every does without: leave one out."
        )
    if settings.loss.ctc_weight == 0:
        raise UserError(
            "federation.pseudo_labels measures confidence by the CTC head, which a loss.ctc_weight of 0 does not train."
        )
    key = "federation.pseudo_labels.decoder"
    check_decoder(labels.decoder, settings.evaluation.beam_ctc_weight, settings.loss.ctc_weight, key)
    weighting = settings.weighting
    if weighting["_target_"].endswith("WerSoftmax") and not weighting.get("shrink"):
        raise UserError(
            "Clients without transcripts have no word errors to be weighed by: with federation.pseudo_labels set "
            "weighting=num_examples, loss_softmax, uniform or wer_shrunk."
        )
    if labels.min_rate >= labels.max_rate:
        raise UserError(
            f"federation.pseudo_labels.min_rate={labels.min_rate:g} must be below max_rate={labels.max_rate:g}."
        )
    if labels.min_agreement and set(settings.augment.speeds) == {1.0}:
        raise UserError(
            f"federation.pseudo_labels.min_agreement={labels.min_agreement:g} compares playback speeds, and there is "
            "one only: set augment.speeds=[0.9,1.0,1.1], or min_agreement=0."
        )


def check_personalise(settings: Config) -> None:
    part = settings.personalisation.part
    check_part(part, settings.model, f"personalisation.part={part.name}")
    if settings.mode is Mode.central:
        raise UserError("personalise=true needs clients: use mode=federated, or python -m asr_fed.personalise.")
    if settings.federation.clients.dev_fraction == 0:
        raise UserError(
            "personalise=true measures on speech that each client holds back, of which there is none: set "
            "federation.clients.dev_fraction, to 0.2 for instance."
        )
