"""Encoders that others have trained: the states that transformers computes for an utterance alone, whatever else is in
its batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from asr_fed.config.schema import EncoderKind, FeatureConfig, FeatureKind, FederationConfig, Tune
from asr_fed.data.batching import training_batches
from asr_fed.interop.huggingface import load_encoder, read_encoder
from asr_fed.model.backbone import count_states
from asr_fed.model.pretrained import SampleEncoder, WhisperEncoder, create_pretrained
from asr_fed.model.recogniser import Recogniser, load_recogniser, save_recogniser
from asr_fed.model.state import frozen_base, read_state, trainable
from asr_fed.model.tuning import train_only
from asr_fed.system.randomness import seed_everything
from asr_fed.training.epoch import train_epoch
from tests.encoders import KINDS, pretrained_experiment, stock, write_encoder
from tests.tiny import Corpus, tiny_model_config, tiny_tokenizer

LENGTHS = [4000, 16000, 401, 7321, 20161]


def opened(folder: Path) -> SampleEncoder | WhisperEncoder:
    encoder = create_pretrained(read_encoder(folder))
    load_encoder(encoder, folder)
    return encoder.eval()


def alone(name: str, samples: torch.Tensor, do_normalize: bool) -> torch.Tensor:
    """What transformers computes for one utterance: [time, neurons]."""
    model = stock(name)
    if name != "whisper":
        if do_normalize:
            samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        return model(samples[None]).last_hidden_state[0]
    from transformers import WhisperFeatureExtractor

    make, states = WhisperFeatureExtractor(feature_size=20, chunk_length=1), []
    for window in samples.split(16000):
        features = make(window.numpy(), sampling_rate=16000, return_tensors="pt").input_features
        states.append(model.encoder(features).last_hidden_state[0])
    return torch.cat(states)[: -(-len(samples) // 320)]


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_states_are_those_that_transformers_computes_for_each_alone(
    name: str, do_normalize: bool, tmp_path: Path
) -> None:
    encoder = opened(write_encoder(tmp_path, name, do_normalize))
    torch.manual_seed(1)
    each = [0.3 * torch.randn(length) + 0.1 for length in LENGTHS]
    batch = nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=9.0)[..., None]
    states, counts = encoder(nn.functional.pad(batch, (0, 0, 0, 999), value=-5.0), torch.tensor(LENGTHS))
    assert encoder.stride == 320
    for row, samples in enumerate(each):
        expected = alone(name, samples, do_normalize)
        assert len(expected) == counts[row] == encoder.shape.states(len(samples))
        torch.testing.assert_close(states[row, : len(expected)], expected, atol=2e-4, rtol=0)
        assert not states[row, len(expected) :].any()


@pytest.mark.parametrize("name", ["wav2vec2 base", "whisper"])
def test_adapters_are_trained_on_every_batch(name: str, tmp_path: Path) -> None:
    """A layer that layerdrop leaves out takes its adapter with it, and of two layers both often go."""
    shape = replace(read_encoder(write_encoder(tmp_path, name)), layerdrop=0.9)
    encoder = create_pretrained(shape, adapters=2).train()
    samples, frames = torch.randn(1, 4000, 1), torch.tensor([4000])
    alike = [encoder(samples, frames)[0].sum() for _ in range(8)]
    for total in alike:
        encoder.zero_grad()
        total.backward()
        assert all(p.grad is not None for name, p in encoder.named_parameters() if ".adapter." in name)


@pytest.mark.parametrize("name", KINDS)
def test_bf16_computes_nearly_the_same_and_has_gradients(name: str, tmp_path: Path) -> None:
    encoder = opened(write_encoder(tmp_path, name))
    samples, frames = 0.3 * torch.randn(2, 8000, 1), torch.tensor([8000, 5000])
    with torch.no_grad():
        exact, _ = encoder(samples, frames)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = encoder(samples, frames)
    torch.testing.assert_close(states.float(), exact, atol=0.2, rtol=0)
    states.float().square().sum().backward()
    given = [parameter.grad for parameter in encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in given)


@pytest.mark.parametrize("name", KINDS)
def test_each_part_of_lora_has_a_gradient(name: str, tmp_path: Path) -> None:
    """transformers may read a layer's weight past the layer, as WavLM's attention does: LoRA has to be in it there."""
    encoder = opened(write_encoder(tmp_path, name))
    linear = sum(isinstance(module, nn.Linear) for module in encoder.modules())
    train_only(encoder, FederationConfig(tune=Tune.lora, lora_rank=2))
    torch.manual_seed(1)
    with torch.no_grad():  # of the one part there is none while the other is 0, as it begins
        for parameter in trainable(encoder):
            parameter.add_(0.2 * torch.randn_like(parameter))
    states, _ = encoder(0.3 * torch.randn(2, 8000, 1), torch.tensor([8000, 5000]))
    (states * torch.randn_like(states)).sum().backward()
    given = {key: parameter.grad for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert len(given) == 2 * linear and all(key.endswith((".0.down", ".0.up")) for key in given)
    assert not [key for key, gradient in given.items() if gradient is None or not gradient.any()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in given.values())


@torch.no_grad()
def test_speech_that_is_shorter_than_a_state_has_one(tmp_path: Path) -> None:
    encoder = opened(write_encoder(tmp_path))
    assert encoder.shape.field == 400
    states, counts = encoder(torch.randn(2, 399, 1), torch.tensor([1, 399]))
    assert counts.tolist() == [1, 1] == [encoder.shape.states(1), encoder.shape.states(399)]
    assert states.isfinite().all() and states.shape == (2, 1, 16)


def test_a_checkpoint_is_whole_without_the_folder(tmp_path: Path) -> None:
    shape = read_encoder(write_encoder(tmp_path / "encoder"))
    config = tiny_model_config(encoder=EncoderKind.pretrained, folder=str(tmp_path / "encoder"), pretrained=shape)
    features = FeatureConfig(kind=FeatureKind.waveform)
    recogniser = Recogniser.create(config, features, tiny_tokenizer())
    assert not frozen_base(recogniser.model), "all of it travels"
    save_recogniser(recogniser, tmp_path / "one.pt")
    (tmp_path / "encoder").rename(tmp_path / "gone")
    loaded = load_recogniser(tmp_path / "one.pt")
    assert loaded.model_config == replace(config, folder=None) and loaded.features == features
    assert read_state(loaded.model).tobytes() == read_state(recogniser.model).tobytes()
    assert count_states(loaded.model_config, 16000) == 49


@pytest.mark.parametrize("name", ["wav2vec2 base", "whisper"])
def test_a_recogniser_on_top_of_it_learns(name: str, corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", name)
    changes = ("augment.pauses=0.5", "augment.pause_seconds=0.2", "loss.ctc_weight=0.5")
    experiment = pretrained_experiment(corpus, prepared, tmp_path / "run", folder, *changes)
    start = experiment.fresh_recogniser()
    encoder = start.model.encoder
    assert isinstance(encoder, SampleEncoder | WhisperEncoder)
    theirs = stock(name)
    for key, tensor in (theirs.encoder if name == "whisper" else theirs).state_dict().items():
        if key != "masked_spec_embed":
            assert torch.equal(encoder.transformer.state_dict()[key], tensor), key
    assert not start.model.feature_mean.any() and start.model.feature_deviation.eq(1).all()
    task = experiment.recognition(start, torch.device("cpu"))
    rng, speech = seed_everything(1, "test"), experiment.partition.warm_up
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.003)
    batch = experiment.config.federation.batch
    losses = [train_epoch(task, training_batches(speech, batch, rng), optimizer, rng, clip=5.0).loss for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]
