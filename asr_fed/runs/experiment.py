"""An experiment: a resolved config and everything that it determines before training starts.

`prepare_experiment` makes it (corpus -> manifest -> partition -> tokenizer -> features) in a run directory;
`open_experiment` opens it again, in another process or after a kill; `open_run` does so for workers, without the lists
of its speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check_encoder import check_encoder
from asr_fed.config.check_learning import check_decoder
from asr_fed.config.explain import explain
from asr_fed.config.schema import (
    Config,
    Decoder,
    EngineKind,
    EvaluationConfig,
    Mode,
    Start,
    TokenizerConfig,
    TokenizerKind,
)
from asr_fed.data.alignable import MOST, alignable, keep_alignable, speech_to_examine
from asr_fed.data.features import FeatureCache, add_speeds, build_features, feature_statistics, open_features
from asr_fed.data.manifest import Utterance, read_manifest
from asr_fed.data.partition import Partition
from asr_fed.data.partition_files import CLIENTS, read_partition, write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from asr_fed.data.untranscribed import hide_transcripts, keep_transcribed, transcribed
from asr_fed.data.wrong_transcripts import with_wrong_transcripts
from asr_fed.interop.huggingface import load_encoder, read_encoder
from asr_fed.interop.open_recogniser import open_recogniser
from asr_fed.model.backbone import count_states
from asr_fed.model.pretrained import SampleEncoder, WhisperEncoder
from asr_fed.model.pretrainer import Pretrainer
from asr_fed.model.recogniser import Recogniser, config_keys
from asr_fed.model.state import freeze
from asr_fed.model.tuning import is_partial, train_only
from asr_fed.runs.run_dir import CHECKPOINTS, CONFIG, complete_config, has_begun, run_of
from asr_fed.system.errors import UserError
from asr_fed.system.processes import available_cores
from asr_fed.system.randomness import repeatable, seed_everything
from asr_fed.tasks.learners import Learner, adopt_encoder, create_learner, load_pretrainer, task_of
from asr_fed.tasks.masked_speech import MaskedSpeech
from asr_fed.tasks.recognition import Recognition

FEATURES = "features.json"  # the shards that the run reads


@dataclass(frozen=True)
class OpenRun:
    """A prepared run directory as a worker opens it: it does not grow with the corpus, whose speech stays on disk."""

    config: Config
    run_dir: Path
    tokenizer: Tokenizer
    cache: FeatureCache

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / CHECKPOINTS

    def task(self, learner: Learner, device: torch.device) -> Recognition | MaskedSpeech:
        """The task of training `learner`, on that device."""
        return task_of(learner, self.config, self.cache, device)

    def recognition(self, recogniser: Recogniser, device: torch.device) -> Recognition:
        """The task of training `recogniser`, on that device."""
        training = self.task(recogniser, device)
        assert isinstance(training, Recognition)
        return training

    def pretraining(self, pretrainer: Pretrainer, device: torch.device) -> MaskedSpeech:
        """The task of training `pretrainer`, on that device."""
        training = self.task(pretrainer, device)
        assert isinstance(training, MaskedSpeech)
        return training


@dataclass(frozen=True)
class Experiment(OpenRun):
    """The same with a list of all speech: who holds which."""

    partition: Partition

    def fresh_recogniser(self) -> Recogniser:
        """`fresh_learner` where the task is recognition."""
        recogniser = self.fresh_learner()
        assert isinstance(recogniser, Recogniser)
        return recogniser

    def fresh_learner(self) -> Learner:
        """What the task trains, with seeded initial weights; normaliser statistics from warm-up speech, an encoder that
        others have trained from its folder."""
        seed_everything(self.config.seed, "initial weights")
        learner = create_learner(self.config, self.tokenizer)
        if isinstance(learner.model.encoder, SampleEncoder | WhisperEncoder):
            load_encoder(learner.model.encoder, Path(self.config.model.folder or ""))
        else:
            learner.model.set_normaliser(*feature_statistics(self.cache, self.partition.warm_up))
        return learner


def settle_encoder(config: Config) -> None:
    """Read the shape of an encoder that others have trained from its folder, into `config`.

    Raises UserError where the folder cannot be used (asr_fed.interop.huggingface), or not with this config.
    """
    if config.model.folder is not None:
        config.model.pretrained = read_encoder(Path(config.model.folder))
        check_encoder(config.model, config.features, config.augment)


def systems(config: Config) -> list[str]:
    """The recognisers that a run trains and tests, each in checkpoints/NAME.pt."""
    if config.mode is Mode.central:
        return ["warm_start", "central"] if config.central.start is Start.warm_start else ["central"]
    return ["warm_start", "federated", *(["central"] if config.central.after_federation else [])]


def pooled_speech(experiment: Experiment) -> list[Utterance]:
    """What the centralised reference trains on: from scratch all speech but dev and test, from the warm start what the
    federation trains on. Recognition needs the transcribed part of it.
    """
    config, partition = experiment.config, experiment.partition
    scratch = config.central.start is Start.scratch
    speech = [utterance for client in partition.clients for utterance in client.train]
    if scratch or config.federation.held_out.epochs:
        speech += partition.held_out
    if scratch or config.federation.held_out.replay_warm_up:
        speech += partition.warm_up
    return speech if config.task.kind.pretrains else list(transcribed(speech))


def prepare_experiment(config: Config) -> Experiment:
    """Prepare what is not prepared yet and write it to the run directory.

    Raises UserError if corpus or config do not allow it.
    """
    run_dir = Path(config.run_dir)
    manifest = Path(config.data.prepared) / "manifest.csv"
    if config.data.prepare is not None:
        try:
            instantiate(config.data.prepare, manifest=str(manifest))
        except InstantiationException as error:  # Hydra wraps any exception of the call
            if isinstance(error.__cause__, UserError | OSError):
                raise error.__cause__ from None
            raise
    utterances = read_manifest(manifest, untranscribed=trains_without_transcripts(config))
    elsewhere = config.engine.kind is EngineKind.deployment
    partition = partition_speakers(
        utterances,
        config.data.parts,
        config.federation.clients,
        config.seed,
        clients_elsewhere=elsewhere,
        reads_transcripts=reads_transcripts(config),
    )
    partition = with_wrong_transcripts(partition, config.federation.clients.wrong_transcripts, config.seed)
    partition = hide_transcripts(partition, config.data.parts, config.seed)
    tokenizer_path = run_dir / "tokenizer.model"
    run_dir.mkdir(parents=True, exist_ok=True)
    begun = has_begun(run_dir)  # if not, the files are from a failed preparation
    if not (begun and tokenizer_path.is_file()):
        save_tokenizer(_tokenizer(config, partition.warm_up), tokenizer_path)
    tokenizer = load_tokenizer(tokenizer_path)
    if not begun:
        check_model(config, tokenizer)
    cache, partition = prepare_features(config, run_dir, partition, tokenizer, available_cores())
    kept = run_dir / "partition"
    if begun and (kept / "partition.csv").is_file() and read_partition(kept) != partition:
        raise UserError(
            f"The corpus behind {manifest} has changed since {run_dir} was begun: its partition is another one now. "
            "Restore the corpus to resume, or start a new run_dir."
        )
    if not (begun and all((kept / name).is_file() for name in ("partition.csv", CLIENTS))):  # 0.1.0 wrote no CLIENTS
        write_partition(partition, kept)
    return Experiment(config, run_dir, tokenizer, cache, partition)


def check_model(config: Config, tokenizer: Tokenizer) -> None:
    """Raises UserError, before any work, for what the model has no part of, and for an encoder that does not fit it."""
    learner = partial(create_learner, config, tokenizer)
    if is_partial(config.federation):
        train_only(learner().model, config.federation)
    for name, frozen in (("warm_start", config.warm_start.frozen), ("central", config.central.frozen)):
        if frozen:
            freeze(learner().model, frozen, f"{name}.frozen")
    recogniser = partial(Recogniser.create, config.model, config.features, tokenizer)
    if config.fine_tune.frozen:
        freeze(recogniser().model, config.fine_tune.frozen, "fine_tune.frozen")
    if config.warm_start.encoder is not None:
        path = Path(config.warm_start.encoder)
        adopt_encoder(recogniser(), load_pretrainer(path), path)


def trains_without_transcripts(config: Config) -> bool:
    """Whether speech that has no transcript is trained on, by pre-training or on the model's own hypotheses."""
    return config.task.kind.pretrains or config.federation.pseudo_labels.on


def reads_transcripts(config: Config) -> bool:
    """Whether anything learns from transcripts or is measured on them. Pre-training that no fine-tuning follows does
    not."""
    return not config.task.kind.pretrains or config.fine_tune.epochs > 0


def prepare_features(
    config: Config, run_dir: Path, partition: Partition, tokenizer: Tokenizer, processes: int, most: float = MOST
) -> tuple[FeatureCache, Partition]:
    """Features of the speech of `partition`, and the partition without what cannot be trained on: what has no
    transcript where one is needed, and what CTC cannot align (see `keep_alignable`).

    Playback speeds are for what is trained on alone. Each recording is looked at once; workers rely on
    RUN_DIR/features.json, which is written here.
    """
    folder = Path(config.data.prepared) / "features"
    if not trains_without_transcripts(config):
        partition = keep_transcribed(partition)
    cache = build_features(speech_to_examine(partition), config.features, folder, processes=processes)
    if config.loss.ctc_weight > 0 and not config.task.kind.pretrains:
        partition = keep_alignable(partition, alignable(cache, tokenizer, partial(count_states, config.model)), most)
    cache = add_speeds(cache, partition.trained_on, config.augment.speeds, config.features, processes=processes)
    cache.save(run_dir / FEATURES)
    return cache, partition


def open_experiment(run_dir: str | Path) -> Experiment:
    """Open a prepared run directory. Features that are not there any more are computed.

    Raises UserError where it is not one.
    """
    run_dir = Path(run_dir)
    config, tokenizer = read_config(run_dir), load_tokenizer(run_dir / "tokenizer.model")
    partition = read_partition(run_dir / "partition")
    try:
        cache = open_features(run_dir / FEATURES, Path(config.data.prepared) / "features")
    except UserError:
        cache, _ = prepare_features(config, run_dir, partition, tokenizer, processes=1)
    return Experiment(config, run_dir, tokenizer, cache, partition)


def open_run(run_dir: str | Path) -> OpenRun:
    """Open a run directory whose preparation has ended. Raises UserError where it is not one."""
    run_dir = Path(run_dir)
    config = read_config(run_dir)
    cache = open_features(run_dir / FEATURES, Path(config.data.prepared) / "features")
    return OpenRun(config, run_dir, load_tokenizer(run_dir / "tokenizer.model"), cache)


def read_config(run_dir: Path) -> Config:
    """The resolved config of a run. Raises UserError where there is none, or that of something else."""
    if not has_begun(run_dir):
        raise UserError(f"{run_dir} is not a run directory: it has no config.yaml.")
    try:
        return OmegaConf.to_object(complete_config(run_dir / CONFIG))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UserError(f"{run_dir / CONFIG} is not the config of a run: {explain(error)}") from error


def evaluation_of(model: Path) -> EvaluationConfig:
    """How the run evaluates whose directory or checkpoint `model` is; without one the defaults, and CTC greedy."""
    run_dir = run_of(model)
    return EvaluationConfig(test_decoder=Decoder.ctc_greedy) if run_dir is None else read_config(run_dir).evaluation


def check_trained(recogniser: Recogniser, decoder: Decoder, beam_ctc_weight: float, run_dir: Path | None) -> None:
    """Raises UserError where a decoder chosen on the command line needs what was not trained.

    A checkpoint of 0.1.0 does not store it, but its `run_dir` does, if there is one.
    """
    trained = recogniser.ctc_weight
    if trained is None and run_dir is not None:
        trained = read_config(run_dir).loss.ctc_weight
    check_decoder(decoder, beam_ctc_weight, trained, "--decoder")


def pick_device(name: str, worker: int = 0) -> torch.device:
    """`auto` is CUDA (workers are distributed over the GPUs), else MPS, else CPU. On CUDA, `repeatable` is called.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            repeatable()
            return torch.device("cuda", worker % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if name == "cuda":
            device = torch.device("cuda", worker % max(1, torch.cuda.device_count()))
        if device.type == "cuda":
            repeatable()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = name.partition(":")[0] in ("cpu", "cuda", "mps")
        why = str(error).splitlines()[0] if known else "it is none of auto, cpu, cuda, cuda:1, mps"
        raise UserError(f"device={name} cannot be used here: {why}. Use device=auto or device=cpu.") from error
    return device


def _tokenizer(config: Config, warm_up: Sequence[Utterance]) -> Tokenizer:
    if config.warm_start.checkpoint is None:
        if warm_up and not transcribed(warm_up) and not reads_transcripts(config):
            # Each run has a vocabulary. This one is never used, and there is nothing to learn one from.
            return train_tokenizer(["no transcripts"], TokenizerConfig(kind=TokenizerKind.char, vocab_size=None))
        return train_tokenizer((utterance.text for utterance in warm_up), config.tokenizer)
    given = open_recogniser(config.warm_start.checkpoint)
    ours = config_keys(config.features, config.model)
    differing = [key for key in config_keys(given.features, given.model_config) if key not in ours]
    if [key for key in differing if key != "model.adapters=0"]:  # those can be added
        raise UserError(
            f"warm_start.checkpoint={config.warm_start.checkpoint} is another model than that of the config. "
            f"It needs {' '.join(differing)}."
        )
    evaluation = config.evaluation
    for name in ("client_decoder", "dev_decoder", "test_decoder"):
        key = f"warm_start.checkpoint={config.warm_start.checkpoint}: evaluation.{name}"
        check_decoder(getattr(evaluation, name), evaluation.beam_ctc_weight, given.ctc_weight, key)
    return given.tokenizer
