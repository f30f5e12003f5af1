"""Of what is learned."""

from dataclasses import dataclass
from enum import Enum

from asr_fed.config.setting import setting


class TaskKind(Enum):
    """Recognition from transcribed speech, or an encoder learned from speech alone: by BEST-RQ (arXiv 2202.01855), or
    by the contrast of wav2vec 2.0 (arXiv 2006.11477)."""

    recognition = "recognition"
    best_rq = "best_rq"
    contrastive = "contrastive"

    @property
    def pretrains(self) -> bool:
        return self is not TaskKind.recognition


@dataclass
class TaskConfig:
    """What is below `kind` is for pre-training: how much of an utterance is masked, and what is predicted there."""

    kind: TaskKind = TaskKind.recognition
    codebook_size: int = setting(8192, at_least=2)  # of best_rq
    code_dim: int = setting(16, at_least=1)  # numbers that the features of a state are projected to
    temperature: float = setting(0.1, above=0)  # of contrastive: what its cosines are divided by
    mask_probability: float = setting(0.01, above=0, at_most=1)  # that a mask begins at a frame
    mask_ms: float = setting(400.0, above=0)
    # of best_rq: codes of features that have mean 0 and deviation 1 in each utterance: they tell less of its channel
    level_codes: bool = False
