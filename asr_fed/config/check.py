"""Refuse a contradictory config before any work, naming the key.

The range of a single value is defined beside its field (asr_fed.config.setting). Here values are checked against each
other.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_fed.config.check_encoder import check_encoder
from asr_fed.config.check_engine import check_engine, check_simulation
from asr_fed.config.check_learning import (
    check_decoder,
    check_fed_vssl,
    check_head,
    check_held_out,
    check_personalise,
    check_pretraining,
    check_pseudo_labels,
    check_tune,
)
from asr_fed.config.explain import no_such_key
from asr_fed.config.schema import (
    AugmentConfig,
    ClientsConfig,
    Config,
    Deal,
    EncoderKind,
    EngineKind,
    FeatureConfig,
    Mode,
    PartsConfig,
    Start,
    TokenizerKind,
    Tune,
)
from asr_fed.config.setting import check_ranges
from asr_fed.config.targets import check_targets
from asr_fed.system.errors import UserError


def check_config(config: DictConfig) -> None:
    """Raises UserError if a value is missing or out of range, if values contradict each other, or for a bad `_target_`
    or argument.
    """
    if OmegaConf.get_type(config) is not Config:
        raise UserError("The experiment's file does not take the schema: its `defaults` begin with `- schema`.")
    if unknown := next(_unknown(config, ""), None):  # added with +, which Hydra accepts
        raise UserError(no_such_key(unknown))
    missing = sorted(_missing(config, ""))
    if missing:
        raise UserError(f"No value for {', '.join(missing)}: set it in the config file or as {missing[0]}=...")
    check_shared(config)
    settings: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    check_parts(settings.data.parts)
    parts = settings.data.parts
    nobody = 0 in (parts.warm_up_speakers, parts.warm_up_hours)
    if settings.warm_start.checkpoint is None and nobody:
        raise UserError(
            "data.parts.warm_up_speakers=0 (or warm_up_hours=0) leaves nothing to train tokenizer and warm start on: "
            "raise it, or give warm_start=MODEL."
        )
    references = settings.mode is Mode.central or settings.central.after_federation
    pretrained = settings.model.encoder is EncoderKind.pretrained
    if nobody and references and settings.central.start is Start.scratch and not pretrained:
        raise UserError(
            "central.start=scratch takes the features' mean from the warm-up speech, and "
            "data.parts.warm_up_speakers=0 (or warm_up_hours=0) leaves none: set central.start=warm_start."
        )
    if settings.warm_start.encoder is not None and settings.warm_start.checkpoint is not None:
        raise UserError("warm_start.encoder and warm_start.checkpoint are two starts: set one of them to null.")
    scratch = settings.mode is Mode.central and settings.central.start is Start.scratch
    if settings.warm_start.encoder is not None and scratch:
        raise UserError(
            "warm_start.encoder is where the warm start begins, and central.start=scratch does without one: set "
            "central.start=warm_start."
        )
    if settings.mode is Mode.federated:
        check_engine(settings)
    if settings.simulation is not None:
        check_simulation(settings.simulation, settings.federation)


def check_new_run(config: DictConfig) -> None:
    """What is refused where a run begins, and not where one that has begun is resumed, which could not change it."""
    settings: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    central = settings.mode is Mode.central
    if settings.engine.kind is EngineKind.deployment and (central or settings.central.after_federation):
        raise UserError(
            f"{'mode=central' if central else 'central.after_federation=true'} trains on the clients' speech in one "
            "place, and with engine=deployment it stays at the nodes: set "
            f"{'engine=local' if central else 'central.after_federation=false'}."
        )
    if settings.mode is Mode.federated:
        check_held_out(settings)
        if settings.task.kind.pretrains and settings.algorithm["_target_"].endswith("FedVssl"):
            check_fed_vssl(settings)


def check_shared(config: DictConfig) -> None:
    """The same checks for the part that a node of a deployment receives, which has no corpus and no engine."""
    settings: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    check_ranges(settings)
    check_targets(config)
    check_encoder(settings.model, settings.features, settings.augment)
    _check_features(settings.features)
    for name in ("client_decoder", "dev_decoder", "test_decoder"):
        decoder, search = getattr(settings.evaluation, name), settings.evaluation.beam_ctc_weight
        check_decoder(decoder, search, settings.loss.ctc_weight, f"evaluation.{name}")
    _check_augment(settings.augment)
    if settings.tokenizer.vocab_size is None and settings.tokenizer.kind is not TokenizerKind.char:
        raise UserError(
            f"tokenizer.vocab_size=null is for kind=char, whose pieces are the characters that there are: give a "
            f"number for {settings.tokenizer.kind.name}, such as 500."
        )
    features, pauses = settings.features, settings.augment.pauses
    if features.subtract_mean and features.mean_gate_db is None and pauses > 0:
        raise UserError(
            f"augment.pauses={pauses:g} with features.mean_gate_db=null would train on pauses as nobody hears them, "
            "because there they move the mean that is subtracted: set augment.pauses=0."
        )
    if settings.loss.ctc_weight == 1:
        _check_ctc_epochs(settings)
    check_clients(settings.federation.clients)
    if settings.federation.upload.error_feedback and not settings.federation.upload.coarse:
        raise UserError(
            "federation.upload.error_feedback=true has nothing to feed back while everything is sent: set "
            "federation.upload.bits, or federation.upload.keep below 1."
        )
    _check_cohort(settings)
    _check_averages(settings)
    if settings.personalise:
        check_personalise(settings)
    if settings.federation.tune is not Tune.full:
        check_tune(settings)
    if settings.task.kind.pretrains:
        check_pretraining(settings)
    elif settings.fine_tune.epochs:
        raise UserError(
            f"fine_tune.epochs={settings.fine_tune.epochs} follows a pre-training (task.kind=best_rq or contrastive): "
            "set it to 0."
        )
    else:
        check_head(settings)
    if settings.federation.pseudo_labels.on:
        check_pseudo_labels(settings)
    if settings.personalisation.lr is None and "Adam" not in settings.personalisation.optimizer["_target_"]:
        raise UserError(
            "The rates that are known are Adam's: with another personalisation.optimizer give a personalisation.lr."
        )


def check_parts(parts: PartsConfig) -> None:
    """Raises UserError where `data.parts` contradicts itself."""
    check_ranges(parts, "data.parts.")
    if parts.dev_share + parts.test_share >= 1:
        raise UserError(
            f"data.parts.dev_share={parts.dev_share:g} and data.parts.test_share={parts.test_share:g} leave no speech "
            "to train on: together they must be below 1."
        )
    amount = parts.warm_up_speakers is not None or parts.warm_up_hours is not None
    if parts.warm_up_file and amount:
        raise UserError(
            "data.parts.warm_up_file lists all warm-up speakers: set data.parts.warm_up_speakers=null "
            "data.parts.warm_up_hours=null beside it."
        )
    if parts.transcribed_file and parts.transcribed < 1:
        raise UserError(
            f"data.parts.transcribed={parts.transcribed:g} and data.parts.transcribed_file are two ways to say who has "
            "transcripts: leave one of them out."
        )
    if not parts.warm_up_file and not amount:
        raise UserError(
            "Who warms the model up? Set data.parts.warm_up_speakers (0 for nobody), warm_up_hours or warm_up_file."
        )


def check_clients(clients: ClientsConfig) -> None:
    """Raises UserError where `federation.clients` contradicts itself."""
    check_ranges(clients, "federation.clients.")
    if clients.count is None and clients.deal is not Deal.balanced:
        raise UserError(
            f"federation.clients.deal={clients.deal.name} needs federation.clients.count, the number of clients to "
            "deal speakers to."
        )


def _check_features(features: FeatureConfig) -> None:
    samples = features.sample_rate * features.win_ms / 1000
    if features.n_fft < samples:
        raise UserError(
            f"features.n_fft={features.n_fft} is shorter than the window of features.win_ms={features.win_ms}, "
            f"which has {samples:g} samples: raise n_fft or lower win_ms."
        )
    if features.hop_ms > features.win_ms:
        raise UserError(
            f"features.hop_ms={features.hop_ms} is longer than features.win_ms={features.win_ms}: the speech between "
            "two windows would be lost."
        )


def _check_augment(augment: AugmentConfig) -> None:
    for most in ("time_drops", "time_drop_frames", "frequency_drops", "frequency_drop_bands"):
        if getattr(augment, f"least_{most}") > getattr(augment, most):
            least = f"augment.least_{most}={getattr(augment, f'least_{most}')}"
            raise UserError(
                f"{least} is more than augment.{most}={getattr(augment, most)}: lower one or raise the other."
            )


def _check_ctc_epochs(settings: Config) -> None:
    for name, epochs, with_ctc in (
        ("warm_start", settings.warm_start.epochs, settings.warm_start.ctc_epochs),
        ("central", settings.central.epochs, settings.central.ctc_epochs),
        ("fine_tune", settings.fine_tune.epochs, settings.fine_tune.ctc_epochs),
        ("federation", settings.federation.local_epochs, settings.federation.ctc_epochs),
    ):
        if with_ctc is not None and with_ctc < epochs:
            raise UserError(
                f"{name}.ctc_epochs={with_ctc} ends CTC before the last epoch, and loss.ctc_weight=1 trains "
                "nothing else: lower loss.ctc_weight, or leave ctc_epochs at null."
            )


def _check_cohort(settings: Config) -> None:
    cohort, count = settings.federation.cohort, settings.federation.clients.count
    if count is not None and isinstance(cohort, int) and cohort > count:
        raise UserError(f"federation.cohort={cohort} is more than the federation.clients.count={count} clients.")


def _check_averages(settings: Config) -> None:
    for name, last, unit, steps in (
        ("federation", settings.federation.average_last, "rounds", settings.federation.rounds),
        ("warm_start", settings.warm_start.average_last, "epochs", settings.warm_start.epochs),
        ("central", settings.central.average_last, "epochs", settings.central.epochs),
        ("fine_tune", settings.fine_tune.average_last, "epochs", settings.fine_tune.epochs),
    ):
        if isinstance(last, int) and last > steps > 0:  # 0: nothing is trained, and there is nothing to average
            raise UserError(f"{name}.average_last={last} is more than the {name}.{unit}={steps} that there are.")
    trainings = {"warm_start": settings.warm_start, "central": settings.central, "fine_tune": settings.fine_tune}
    for name, central in trainings.items():
        if central.average_last is not None and central.early_stop is not None:
            raise UserError(
                f"{name}.average_last needs to know which epochs are the last, and {name}.early_stop may end it before "
                "them: leave one of the two at null."
            )


def _unknown(node: DictConfig, prefix: str) -> Iterator[str]:
    kind: Any = OmegaConf.get_type(node)
    known = {each.name for each in fields(kind)} if is_dataclass(kind) else set(node)
    for key in map(str, node):
        child = node._get_node(key)
        if key not in known:
            yield f"{prefix}{key}"
        elif isinstance(child, DictConfig) and not child._is_none():
            yield from _unknown(child, f"{prefix}{key}.")


def _missing(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _missing(child, f"{prefix}{key}.")
        elif OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield f"{prefix}{key}"
