"""What a client sends of its delta, where that is less than all of it."""

import numpy as np

from asr_fed.aggregation.codec import encode, left_over
from asr_fed.config.schema import UploadConfig
from asr_fed.model.state import StateLayout

UNSENT = "unsent"  # what of earlier deltas was not sent, as the client's owner keeps it


def to_send(
    delta: np.ndarray,
    weight: float,
    unsent: np.ndarray | None,
    layout: StateLayout,
    settings: UploadConfig,
    chance: np.random.Generator,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What to add to an update, and what stays with the client's owner: nothing without error feedback.

    delta, unsent: float32 [state]. Raises UpdateRefused for a delta that cannot be added.
    """
    if not settings.coarse:
        return delta, {}
    if unsent is not None and settings.error_feedback:
        delta = delta + unsent
    coded = encode(
        delta, weight, layout.sizes, layout.parameters, bits=settings.bits, keep=settings.keep, chance=chance
    )
    return coded, {UNSENT: left_over(delta, coded, weight)} if settings.error_feedback else {}
