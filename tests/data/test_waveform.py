"""Waveforms as features: whole, at full scale at most, with the guarantees of the cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from asr_fed.config.check import check_shared
from asr_fed.config.schema import FeatureConfig, FeatureKind, TokenizerConfig, TokenizerKind
from asr_fed.data.batching import collate
from asr_fed.data.features import add_speeds, build_features
from asr_fed.data.manifest import Utterance
from asr_fed.data.tokenizer import train_tokenizer
from asr_fed.data.waveform import waveform
from asr_fed.system.errors import UserError
from tests.tiny import typed_config

CONFIG = FeatureConfig(kind=FeatureKind.waveform)


def record(folder: Path, *signals: np.ndarray) -> list[Utterance]:
    for number, signal in enumerate(signals):
        soundfile.write(folder / f"r{number}.wav", signal, 16000, subtype="FLOAT")
    return [Utterance(f"u{n}", len(s) / 16000, str(folder / f"r{n}.wav"), "s", "ba du") for n, s in enumerate(signals)]


def test_a_cache_holds_each_recording_whole_and_at_other_speeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    signals = [rng.normal(0, 0.2, length).astype(np.float32) for length in (8000, 1, 12345)]
    utterances = record(tmp_path, *signals)
    cache = build_features(utterances, CONFIG, tmp_path / "features")
    cache = add_speeds(cache, utterances, (1.25,), CONFIG)
    for utterance, signal in zip(utterances, signals, strict=True):
        np.testing.assert_allclose(cache[utterance.id, 1.0][:, 0], signal, rtol=1e-3, atol=1e-7)
        assert cache.frames(utterance.id, 1.0) == len(signal)
        assert cache.frames(utterance.id, 1.25) == pytest.approx(len(signal) / 1.25, abs=1)
        assert cache.silence(utterance.id, 1.0).tolist() == [0.0]
    tokenizer = train_tokenizer(["ba du"], TokenizerConfig(TokenizerKind.char, None))
    batch = collate(utterances, cache, tokenizer)
    assert batch.features.shape == (3, 12345, 1) and batch.frames.tolist() == [8000, 1, 12345]


def test_only_the_rate_makes_another_cache_and_log_mel_keeps_its_own(tmp_path: Path) -> None:
    utterances = record(tmp_path, np.full(1600, 0.1, np.float32))
    first = build_features(utterances, CONFIG, tmp_path / "features").shards
    assert build_features(utterances, replace(CONFIG, n_mels=20, hop_ms=20), tmp_path / "features").shards == first
    others = (replace(CONFIG, sample_rate=8000), FeatureConfig())
    assert all(build_features(utterances, other, tmp_path / "features").shards != first for other in others)
    assert "kind" not in FeatureConfig().identity, "caches of earlier versions stay valid"


def test_what_is_above_full_scale_is_scaled_down_to_it_and_nothing_else() -> None:
    quiet = torch.tensor([0.0, 0.25, -0.5])
    assert torch.equal(waveform(quiet)[:, 0], quiet.half())
    loud = waveform(quiet * 2.0**31, with_silence=True)
    assert loud.isfinite().all()
    torch.testing.assert_close(loud[:, 0].float(), torch.tensor([0.0, 0.5, -1.0, 0.0]))


def test_an_encoder_that_reads_log_mel_frames_takes_no_waveforms() -> None:
    config = typed_config({}, "features.kind=waveform", "augment.pauses=0.0")
    with pytest.raises(UserError, match=r"model.encoder=crdnn reads log-mel frames: set features.kind=log_mel"):
        check_shared(OmegaConf.structured(config))
