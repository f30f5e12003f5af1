"""The loss, the normaliser, and checkpoints that stand on their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from asr_fed.config.schema import Decoder, EvaluationConfig, FeatureConfig, LossConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BOS, EOS
from asr_fed.model.decoding import decode
from asr_fed.model.recogniser import AcousticModel, Recogniser, load_recogniser, save_recogniser
from asr_fed.model.state import read_state, state_sha256
from asr_fed.system.checkpoint import save_checkpoint
from asr_fed.system.errors import UserError
from tests.tiny import alone, random_batch, tiny_recogniser

FRAMES = [120, 90, 140]


@pytest.fixture
def recogniser() -> Recogniser:
    built = tiny_recogniser()
    built.model.set_normaliser(np.full(16, -10, np.float32), np.full(16, 5, np.float32))
    built.model.eval()
    return built


def loss(model: AcousticModel, batch: Batch, weight: float, smoothing: float = 0.0, with_ctc: bool = True) -> float:
    config = LossConfig(ctc_weight=weight, label_smoothing=smoothing)
    return model.loss(model.normalise(batch.features), batch, config, with_ctc=with_ctc).item()


def test_the_loss_is_a_mean_over_tokens_of_ctc_and_nll(recogniser: Recogniser) -> None:
    model, batch = recogniser.model, random_batch(FRAMES, recogniser.tokenizer)
    ctc, nll, tokens = [], 0.0, 0
    for row in range(len(FRAMES)):
        own = alone(batch, row)
        with torch.no_grad():
            states, counts = model.encode(own)
            ctc.append(
                functional.ctc_loss(
                    model.ctc_log_probs(states)[0], own.tokens[0], counts, own.token_counts, reduction="sum"
                )
                / own.token_counts[0]
            )
            inputs = torch.cat([torch.tensor([[BOS]]), own.tokens], dim=1)
            outputs, _ = model.decoder(model.embedding(inputs), states, torch.ones(1))
            model.decoder.attn.reset()
            log_probs = model.decoder_head(outputs)[0].log_softmax(-1)
            targets = [*own.tokens[0].tolist(), EOS]
            nll -= sum(log_probs[position, token].item() for position, token in enumerate(targets))
            tokens += len(targets)
    expected_ctc, expected_nll = torch.stack(ctc).mean().item(), nll / tokens
    assert loss(model, batch, 1.0) == pytest.approx(expected_ctc, rel=1e-4)
    assert loss(model, batch, 0.0) == pytest.approx(expected_nll, rel=1e-4)
    assert loss(model, batch, 0.3) == pytest.approx(0.3 * expected_ctc + 0.7 * expected_nll, rel=1e-4)
    assert loss(model, batch, 0.3, with_ctc=False) == pytest.approx(expected_nll, rel=1e-4)
    assert loss(model, batch, 0.0, smoothing=0.1) != pytest.approx(expected_nll, rel=1e-4)


def test_an_utterance_too_short_for_its_text_cannot_pass_for_a_perfect_one(recogniser: Recogniser) -> None:
    """Preparation drops such utterances; the batch of one that slips through is skipped for its infinite loss."""
    batch = random_batch([120, 8], recogniser.tokenizer)
    assert np.isinf(loss(recogniser.model, batch, 0.5))
    assert np.isfinite(loss(recogniser.model, batch, 0.0)), "attention needs no alignment"


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_every_head_that_is_trained_gets_a_gradient(recogniser: Recogniser, weight: float) -> None:
    model, batch = recogniser.model.train(), random_batch(FRAMES, recogniser.tokenizer)
    model.loss(model.normalise(batch.features), batch, LossConfig(weight), with_ctc=True).backward()
    touched = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    expected = {"encoder"} | ({"ctc_head"} if weight else set())
    expected |= {"embedding", "decoder", "decoder_head"} if weight < 1 else set()
    assert touched == expected


def test_the_normaliser_is_applied_and_kept_in_the_state(recogniser: Recogniser) -> None:
    model = recogniser.model
    mean, deviation = np.linspace(-3, 3, 16, dtype=np.float32), np.linspace(1, 2, 16, dtype=np.float32)
    before = state_sha256(read_state(model))
    model.set_normaliser(mean, deviation)
    features = torch.randn(2, 7, 16)
    np.testing.assert_allclose(model.normalise(features).numpy(), (features.numpy() - mean) / deviation, rtol=1e-5)
    assert state_sha256(read_state(model)) != before
    assert {"feature_mean", "feature_deviation"} <= model.state_dict().keys()
    assert not any(name.startswith("feature_") for name, _ in model.named_parameters())


def test_a_checkpoint_needs_nothing_else(recogniser: Recogniser, tmp_path: Path) -> None:
    with torch.no_grad():
        recogniser.model.encoder.crdnn.DNN.block_0.norm.norm.running_mean.fill_(0.7)
    save_recogniser(recogniser, tmp_path / "some.pt")
    loaded = load_recogniser(tmp_path / "some.pt")
    assert state_sha256(read_state(loaded.model)) == state_sha256(read_state(recogniser.model))
    assert loaded.tokenizer == recogniser.tokenizer
    assert (loaded.model_config, loaded.features) == (recogniser.model_config, recogniser.features)
    batch = random_batch(FRAMES, recogniser.tokenizer)
    decoded = [decode(r.model, batch, Decoder.ctc_greedy, EvaluationConfig()) for r in (recogniser, loaded)]
    assert decoded[0] == decoded[1]


@pytest.mark.parametrize("subtract_mean", [True, False])
def test_a_recogniser_of_version_0_1_hears_as_it_did(
    recogniser: Recogniser, tmp_path: Path, subtract_mean: bool
) -> None:
    """Its mean is that of every frame; where it subtracts none, it fits a config of today."""
    content = recogniser.to_dict()
    content["features"]["subtract_mean"] = subtract_mean
    del content["features"]["mean_gate_db"]
    save_checkpoint({"recogniser": content}, tmp_path / "old.pt")
    features = load_recogniser(tmp_path / "old.pt").features
    assert features.mean_gate_db == (None if subtract_mean else FeatureConfig().mean_gate_db)
    assert features.subtract_mean is subtract_mean


def test_what_is_no_recogniser_is_refused_by_name(tmp_path: Path, recogniser: Recogniser) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*none\.pt"):
        load_recogniser(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    save_checkpoint({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    content = replace(recogniser, model_config=replace(recogniser.model_config, rnn_neurons=16)).to_dict()
    save_checkpoint({"recogniser": content}, tmp_path / "mismatch.pt")
    for name in ("text", "other", "mismatch"):
        with pytest.raises(UserError, match=rf"{name}\.pt does not hold a recogniser"):
            load_recogniser(tmp_path / f"{name}.pt")


CODE = "x]\nrun: !apply:os.system ['touch /tmp/x']\n#"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("features", "sample_rate", CODE),
        ("features", "mean_gate_db", CODE),
        ("model_config", "attention_dim", CODE),
        ("model_config", "dropout", CODE),
        ("model_config", "cnn_channels", [CODE]),
        ("model_config", "cnn_kernel", CODE),
        ("model_config", "pool_2d", CODE),
        ("model_config", "rnn_layers", 0),
        ("model_config", "dropout", float("nan")),
        ("model_config", "code", 1),
    ],
)
def test_a_checkpoint_of_somebody_else_holds_settings_and_nothing_else(
    recogniser: Recogniser, tmp_path: Path, part: str, name: str, value: object
) -> None:
    """They go into the hyperparams.yaml of an exported folder, which SpeechBrain executes."""
    content = recogniser.to_dict()
    content[part] = {**content[part], name: value}
    save_checkpoint({"recogniser": content}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="does not hold a recogniser"):
        load_recogniser(tmp_path / "foreign.pt")


def test_the_loss_that_a_checkpoint_notes_is_a_number(recogniser: Recogniser, tmp_path: Path) -> None:
    save_checkpoint({"recogniser": recogniser.to_dict() | {"ctc_weight": CODE}}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="does not hold a recogniser"):
        load_recogniser(tmp_path / "foreign.pt")
