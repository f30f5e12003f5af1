"""The Conformer: SpeechBrain's layers, an utterance's states its own, in our checkpoints alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from asr_fed.config.check import check_shared
from asr_fed.config.schema import Decoder, EncoderKind
from asr_fed.data.batching import training_batches
from asr_fed.interop.speechbrain.writer import export_recogniser
from asr_fed.model.conformer import Conformer
from asr_fed.model.encoder import stride
from asr_fed.model.recogniser import Recogniser, load_recogniser, save_recogniser
from asr_fed.model.state import layout, read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import seed_everything
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.epoch import train_epoch
from tests.tiny import tiny_model_config, tiny_recogniser, typed_config

TINY = {
    "encoder": EncoderKind.conformer,
    "conformer_layers": 2,
    "conformer_neurons": 16,
    "conformer_ffn": 24,
    "conformer_heads": 2,
    "conformer_kernel": 5,
}
LENGTHS = [37, 4, 61, 60, 1, 23]
SHAPES = [
    {"pool_2d": True, "time_pooling": 1},
    {"pool_2d": False, "time_pooling": 3},
    {"pool_2d": True, "time_pooling": 2},
]


def conformer(**shape: object) -> Conformer:
    torch.manual_seed(0)
    return Conformer(tiny_model_config(**(TINY | shape)), n_mels=16).eval()


@pytest.fixture
def recogniser() -> Recogniser:
    return tiny_recogniser(**TINY)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_neither_the_others_of_a_batch_nor_what_stands_in_the_padding_change_states(shape: dict[str, object]) -> None:
    model = conformer(**shape)
    torch.manual_seed(1)
    alone = [torch.randn(length, 16) for length in LENGTHS]
    features = nn.utils.rnn.pad_sequence(alone, batch_first=True, padding_value=7.0)
    states, counts = model(nn.functional.pad(features, (0, 0, 0, 9), value=-3.0), torch.tensor(LENGTHS))
    assert model.stride == stride(tiny_model_config(**(TINY | shape)))
    assert counts.tolist() == [-(-length // model.stride) for length in LENGTHS]
    for row, one in enumerate(alone):
        own, [count] = model(one[None], torch.tensor([len(one)]))
        assert count == counts[row]
        torch.testing.assert_close(states[row, :count], own[0, :count], atol=1e-5, rtol=0)
        assert not states[row, count:].any() and states[row, :count].any()


@torch.no_grad()
def test_without_padding_its_layers_are_speechbrains() -> None:
    model = conformer(pool_2d=False, time_pooling=1)
    inside: list[torch.Tensor] = []
    model.entry.register_forward_hook(lambda module, inputs, output: inside.append(output))
    states, _ = model(torch.randn(3, 20, 16), torch.tensor([20, 20, 20]))
    expected, _ = model.layers(inside[0], pos_embs=model.places(inside[0]))
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=0)


def test_a_few_steps_lower_the_loss_and_nothing_of_a_batch_is_kept(
    experiment: Experiment, context: Recognition, recogniser: Recogniser
) -> None:
    recogniser = replace(recogniser, tokenizer=experiment.tokenizer)
    task = replace(context, recogniser=recogniser)
    rng, speech = seed_everything(1, "test"), experiment.partition.warm_up
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.005)
    batch = experiment.config.federation.batch
    losses = [train_epoch(task, training_batches(speech, batch, rng), optimizer, rng, clip=5.0).loss for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name in layout(task.model).names if "running" in name] == []


def test_a_checkpoint_holds_it_and_a_folder_of_speechbrain_does_not(recogniser: Recogniser, tmp_path: Path) -> None:
    save_recogniser(recogniser, tmp_path / "one.pt")
    loaded = load_recogniser(tmp_path / "one.pt")
    assert loaded.model_config == recogniser.model_config
    assert read_state(loaded.model).tobytes() == read_state(recogniser.model).tobytes()
    with pytest.raises(UserError, match="holds a CRDNN, and this recogniser has a conformer"):
        export_recogniser(loaded, tmp_path / "folder", Decoder.ctc_greedy)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [("model.conformer_heads=3", "a multiple of 6"), ("model.conformer_kernel=4", "conformer_kernel=4 must be odd")],
)
def test_a_shape_that_cannot_be_is_refused(change: str, told: str) -> None:
    config = typed_config(
        {"model": {"encoder": "conformer", "conformer_neurons": 16}, "augment": {"pauses": 0.0}}, change
    )
    with pytest.raises(UserError, match=told):
        check_shared(OmegaConf.structured(config))


@pytest.mark.parametrize("name", ["conformer_tiny", "conformer"])
def test_the_groups_are_whole(name: str) -> None:
    group = OmegaConf.load(f"hparams/model/{name}.yaml")
    config = typed_config({"model": OmegaConf.to_container(group)}).model
    assert config.encoder is EncoderKind.conformer
    if name == "conformer_tiny":
        assert 0.7e6 < sum(p.numel() for p in Conformer(config, 40).parameters()) < 0.9e6
