"""What is learned, as training needs to know it. Recognition is one task (asr_fed.tasks has all of them)."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from asr_fed.config.schema import Precision
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.wer import ErrorCounts

BatchT = TypeVar("BatchT")
# Where an evaluation takes place: on a client after its training, or on the server's dev speech.
Place = Literal["client", "dev"]


class Evaluated(Protocol):
    """What an evaluation comes to."""

    @property
    def errors(self) -> ErrorCounts:
        """As counts that add up over clients: wrong words, or wrong guesses at what was masked."""
        ...

    @property
    def merit(self) -> float:
        """What steers, the lower the better: the WER in percent, or the held-out loss."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """By the names that a round's record has for them."""
        ...


class Task(Protocol[BatchT]):
    """A model with its training speech, loss and figure of merit."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> Precision: ...

    def collate(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> BatchT:
        """A batch to train on, augmented; all that is random comes from `rng` and from torch's own random state."""
        ...

    def loss(self, batch: BatchT, *, with_ctc: bool) -> torch.Tensor:
        """The loss of a step, a scalar. `with_ctc` matters where there is CTC."""
        ...

    def evaluate(self, utterances: Sequence[Utterance], place: Place) -> Evaluated:
        """How good the model is at its task, without dropout and augmentation."""
        ...

    def mean_loss(self, utterances: Sequence[Utterance]) -> float:
        """The training loss without dropout and augmentation: the mean over utterances."""
        ...
