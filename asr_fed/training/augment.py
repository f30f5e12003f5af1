"""SpecAugment (arXiv 1904.08779) on normalised features, with SpeechBrain's classes."""

import torch
from speechbrain.augment.freq_domain import SpectrogramDrop, Warping

from asr_fed.config.schema import AugmentConfig


def spec_augment(features: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Warp time, then zero random stretches of time and of mel bands; features are [batch, frames, n_mels].

    Works in place where possible.
    """
    if config.warp_frames:
        features = Warping(warp_window=config.warp_frames)(features)
    for dim, what, unit in ((1, "time_drop", "frames"), (2, "frequency_drop", "bands")):
        count, width = getattr(config, f"{what}s"), getattr(config, f"{what}_{unit}")
        if count:
            drop = SpectrogramDrop(
                drop_length_low=getattr(config, f"least_{what}_{unit}"),
                drop_length_high=width + 1,  # exclusive
                drop_count_low=getattr(config, f"least_{what}s"),
                drop_count_high=count,
                dim=dim,
            )
            features = drop(features)
    return features
