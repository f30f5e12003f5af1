"""SpecAugment (arXiv 1904.08779) on normalised features, and what it corresponds to in waveforms; SpeechBrain's
classes."""

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop, Warping
from speechbrain.augment.time_domain import DropFreq

from asr_fed.config.schema import AugmentConfig, FeatureConfig


def spec_augment(features: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Warp time, then zero random stretches of time and of mel bands; features are [batch, frames, n_mels].

    Works in place where possible.
    """
    if config.warp_frames:
        features = Warping(warp_window=config.warp_frames)(features)
    features = _drop_times(features, config, 1)
    if config.frequency_drops:
        widths = (config.least_frequency_drop_bands, config.frequency_drop_bands)
        features = _drop(features, 2, config, "frequency_drops", *widths)
    return features


def augment_waveforms(samples: torch.Tensor, config: AugmentConfig, features: FeatureConfig) -> torch.Tensor:
    """Filter out random frequencies, the same in all utterances, then zero random stretches of time.

    samples: [batch, samples, 1]. A stretch is as long as that many frames of `features.hop_ms`; a frequency takes a
    band of a tenth of the spectrum with it, whatever `frequency_drop_bands` says.
    """
    if config.frequency_drops:
        drop = DropFreq(drop_freq_count_low=config.least_frequency_drops, drop_freq_count_high=config.frequency_drops)
        samples = drop(samples[..., 0])[..., None]
    return _drop_times(samples, config, round(features.sample_rate * features.hop_ms / 1000))


def _drop_times(x: torch.Tensor, config: AugmentConfig, unit: int) -> torch.Tensor:
    if not config.time_drops:
        return x
    return _drop(x, 1, config, "time_drops", unit * config.least_time_drop_frames, unit * config.time_drop_frames)


def _drop(x: torch.Tensor, dim: int, config: AugmentConfig, count: str, least: int, most: int) -> torch.Tensor:
    drop = SpectrogramDrop(
        drop_length_low=least,
        drop_length_high=most + 1,  # exclusive
        drop_count_low=getattr(config, f"least_{count}"),
        drop_count_high=getattr(config, count),
        dim=dim,
    )
    dropped: torch.Tensor = drop(x)
    return dropped
