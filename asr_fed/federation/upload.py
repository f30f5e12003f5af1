"""What a client sends of its delta, where that is less than all of it."""

import numpy as np

from asr_fed.aggregation.codec import encode, left_over
from asr_fed.config.schema import UploadConfig
from asr_fed.model.state import StateLayout
from asr_fed.system.randomness import generator

UNSENT = "unsent"  # what of earlier deltas was not sent, as the client's owner keeps it


def to_send(
    delta: np.ndarray,
    weight: float,
    unsent: np.ndarray | None,
    layout: StateLayout,
    settings: UploadConfig,
    seed: int,
    server_round: int,
    client: str,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What to add to an update, and what stays with the client's owner: nothing without error feedback.

    delta, unsent: float32 [state]. seed, server_round, client: what decides which entries are rounded up.
    Raises UpdateRefused for a delta that cannot be added.
    """
    if not settings.coarse:
        return delta, {}
    if unsent is not None and settings.error_feedback:
        delta = delta + unsent
    chance = generator(seed, "upload", server_round, client)
    sizes, parameters = layout.sizes, layout.parameters
    coded = encode(delta, weight, sizes, parameters, bits=settings.bits, keep=settings.keep, chance=chance)
    return coded, {UNSENT: left_over(delta, coded, weight)} if settings.error_feedback else {}
