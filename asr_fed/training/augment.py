"""SpecAugment (arXiv 1904.08779) on normalised features, by SpeechBrain's classes."""

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop, Warping

from asr_fed.config.schema import AugmentConfig


def spec_augment(features: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Warp time, then zero random stretches of time and of mel bands; features are [batch, frames, n_mels].

    Works in place where it can.
    """
    if config.warp_frames:
        features = Warping(warp_window=config.warp_frames)(features)
    for dim, count, width in (
        (1, config.time_drops, config.time_drop_frames),
        (2, config.frequency_drops, config.frequency_drop_bands),
    ):
        if count:
            drop = SpectrogramDrop(
                drop_length_low=0, drop_length_high=width + 1, drop_count_low=0, drop_count_high=count, dim=dim
            )
            features = drop(features)
    return features
