"""Of what is learned."""

from dataclasses import dataclass
from enum import Enum

from asr_fed.config.setting import setting


class TaskKind(Enum):
    """Recognition from transcribed speech, or BEST-RQ (arXiv 2202.01855), which learns an encoder from speech alone."""

    recognition = "recognition"
    best_rq = "best_rq"


@dataclass
class TaskConfig:
    """What is below `kind` is BEST-RQ's: how much of an utterance is masked, and the codes that are predicted there."""

    kind: TaskKind = TaskKind.recognition
    codebook_size: int = setting(8192, at_least=2)
    code_dim: int = setting(16, at_least=1)
    mask_probability: float = setting(0.01, above=0, at_most=1)  # that a mask begins at a frame
    mask_ms: float = setting(400.0, above=0)
    # codes of features that have mean 0 and deviation 1 in each utterance, so that they tell less of its channel
    level_codes: bool = False
