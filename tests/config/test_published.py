"""hparams/cv_fr.yaml holds the numbers of the experiment that it is named after, and says whose each is."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from asr_fed.config.check import check_config
from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config

# Of configs/CRDNN.yaml in github.com/yan-gao-GY/Flower-SpeechBrain: what it calls them, ours, and its number.
PUBLISHED = [
    ("n_mels", "features.n_mels", 80),
    ("output_neurons", "tokenizer.vocab_size", 500),
    ("time_pooling_size", "model.time_pooling", 4),
    ("rnn_layers", "model.rnn_layers", 5),
    ("rnn_neurons", "model.rnn_neurons", 1024),
    ("dropout", "model.dropout", 0.15),
    ("ctc_weight", "loss.ctc_weight", 0.3),
    ("label_smoothing", "loss.label_smoothing", 0.1),
    ("number_of_epochs", "federation.local_epochs", 5),
    ("number_of_ctc_epochs", "federation.ctc_epochs", 4),
    ("lr", "federation.lr", 1.0),
    ("batch_size", "federation.batch.max_utterances", 8),
    ("annealing_factor", "federation.annealing.factor", 0.8),
    ("improvement_threshold", "federation.annealing.threshold", 0.0025),
    ("avoid_if_longer_than", "data.parts.max_train_seconds", 8.0),
    ("n_time_mask", "augment.least_time_drops", 2),
    ("n_time_mask", "augment.time_drops", 2),
    ("time_mask_width", "augment.time_drop_frames", 40 - 1),  # SpeechBrain leaves the upper end out
    ("n_freq_mask", "augment.least_frequency_drops", 2),
    ("n_freq_mask", "augment.frequency_drops", 2),
    ("freq_mask_width", "augment.frequency_drop_bands", 30 - 1),
    ("time_warp_window", "augment.warp_frames", 5),
    ("beam_size", "evaluation.beam_size", 80),
    ("temperature", "evaluation.beam_temperature", 1.5),
    ("eos_threshold", "evaluation.beam_eos_threshold", 1.5),
    ("max_attn_shift", "evaluation.beam_max_attention_shift", 140),
]


def experiment(*overrides: str) -> DictConfig:
    ConfigStore.instance().store("schema", Config)
    with initialize_config_dir(str(experiments_folder()), version_base="1.3"):
        return compose("cv_fr", ["data.root=corpus", "run_dir=somewhere", *overrides])


@pytest.mark.parametrize(("theirs", "ours", "number"), PUBLISHED)
def test_numbers_of_the_published_code_are_in_it(theirs: str, ours: str, number: float) -> None:
    assert OmegaConf.select(experiment(), ours) == number, theirs


def test_what_the_code_has_otherwise_can_be_set() -> None:
    """Attention alone in the beam, and SpecAugment as it is since 2024."""
    drops = {"time_drops": 5, "time_drop_frames": 15, "frequency_drops": 2, "frequency_drop_bands": 25}
    most = {"time_drops": 5, "time_drop_frames": 24, "frequency_drops": 2, "frequency_drop_bands": 34}
    overrides = [f"augment.least_{name}={number}" for name, number in drops.items()]
    overrides += [f"augment.{name}={number}" for name, number in most.items()]
    check_config(experiment(*overrides, "evaluation.beam_ctc_weight=0.0"))


def test_each_number_says_whose_it_is() -> None:
    text = (experiments_folder() / "cv_fr.yaml").read_text(encoding="utf-8")
    settings = text.partition("\nrun_dir:")[2].splitlines()[1:]
    leaves = [line for line in settings if re.match(r"\s+\w+: [^#\s]", line)]
    assert len(leaves) > 30
    for line in leaves:
        assert re.search(r"# (paper|code|recipe|ours)\b", line), line
