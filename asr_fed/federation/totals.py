"""What a client tells in numbers: they leave it only as parts of sums over clients."""

import numpy as np

from asr_fed.aggregation.prior import squared_errors
from asr_fed.aggregation.update import UpdateRefused, fixed
from asr_fed.federation.own_labels import OwnLabels
from asr_fed.training.local import ClientResult


def client_totals(result: ClientResult, own: OwnLabels | None = None) -> dict[str, int]:
    """The numbers that are summed over clients besides a_k * delta_k and a_k. Nothing else leaves a client."""
    if not np.isfinite(result.loss):
        raise UpdateRefused(f"a loss of {result.loss}")
    if result.errors.errors < 0 or result.errors.units < 0:
        raise UpdateRefused(f"a WER of {result.errors.errors} errors in {result.errors.units} words")
    return {
        "loss": fixed(result.loss),
        "measured": int(result.errors.units > 0),
        "word_errors": result.errors.errors,
        "words": result.errors.units,
        "squared_errors": squared_errors(result.errors.errors, result.errors.units),
        "examples": result.num_examples,
        "skipped_steps": result.skipped_steps,
        "audio_milliseconds": round(1000 * result.audio_seconds),
        "train_milliseconds": round(1000 * result.train_seconds),
        "untranscribed": own.untranscribed if own else 0,
        "pseudo_labelled": own.pseudo_labelled if own else 0,
    }
