"""What a run trains and keeps in its checkpoints, whatever the task: a recogniser, or a model in pre-training."""

from pathlib import Path
from typing import Any

import torch

from asr_fed.config.schema import Config
from asr_fed.data.features import FeatureCache
from asr_fed.data.tokenizer import Tokenizer
from asr_fed.model import pretrainer
from asr_fed.model.pretrainer import Pretrainer
from asr_fed.model.recogniser import Recogniser, config_keys, load_recogniser
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.tasks.masked_speech import MaskedSpeech
from asr_fed.tasks.recognition import Recognition

Learner = Recogniser | Pretrainer


def create_learner(config: Config, tokenizer: Tokenizer) -> Learner:
    """With fresh weights, drawn from torch's current random state."""
    if config.task.kind.pretrains:
        return Pretrainer.create(config.model, config.features, config.task, config.seed)
    return Recogniser.create(config.model, config.features, tokenizer)


def task_of(learner: Learner, config: Config, cache: FeatureCache, device: torch.device) -> Recognition | MaskedSpeech:
    """The task of training `learner`, which is moved to the device."""
    learner.model.to(device)
    if isinstance(learner, Pretrainer):
        return MaskedSpeech(learner, cache, config.augment, config.evaluation, config.precision, device)
    return Recognition(learner, cache, config.augment, config.loss, config.evaluation, config.precision, device)


def save_learner(learner: Learner, config: Config, path: Path) -> None:
    """A recogniser's checkpoint notes the loss that has trained it."""
    if isinstance(learner, Pretrainer):
        save_checkpoint({pretrainer.KEY: learner.to_dict()}, path)
    else:
        save_checkpoint({"recogniser": learner.trained_by(config.loss).to_dict()}, path)


def load_learner(path: Path, config: Config) -> Learner:
    """Raises UserError where the file is missing or holds something else than the task of `config` trains."""
    return load_pretrainer(path) if config.task.kind.pretrains else load_recogniser(path)


def load_pretrainer(path: Path) -> Pretrainer:
    """Of a checkpoint, or of the run directory that it is in. Raises UserError where there is none."""
    if path.is_dir():
        path = next(
            (each for name in ("federated.pt", "central.pt") if (each := path / "checkpoints" / name).is_file()), path
        )
    if not path.is_file():
        raise UserError(f"There is no pre-trained encoder at {path}: give the run directory of a pre-training.")
    try:
        return Pretrainer.from_dict(load_checkpoint(path)[pretrainer.KEY])
    except Exception as error:  # a foreign file can fail in many ways
        raise UserError(f"{path} holds no pre-training of asr_fed: {error!r}") from error


def adopt_encoder(recogniser: Recogniser, given: Pretrainer, path: Path) -> None:
    """Put the encoder and normaliser of a pre-training into a recogniser, in place.

    Raises UserError where they are of another shape or of other features.
    """
    ours = config_keys(recogniser.features, recogniser.model_config)
    differing = [key for key in config_keys(given.features, given.model_config) if key not in ours]
    only_of_decoders = ("model.embedding", "model.decoder_", "model.attention_")
    differing = [key for key in differing if not key.startswith(only_of_decoders)]
    if differing:
        raise UserError(f"warm_start.encoder={path} is of another model. It needs {' '.join(differing)}.")
    theirs: dict[str, Any] = given.model.state_dict()
    shared = {name: tensor for name, tensor in theirs.items() if not name.startswith(("head.", "quantiser."))}
    missing, unexpected = recogniser.model.load_state_dict(shared, strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("encoder.")]
