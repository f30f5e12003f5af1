"""The learning rate: NewBob lowers it when the word error rate stops falling; a planned fall takes it to 0.

If both are set, the rate is their product: NewBob's, which the dev WER lowers, times the fraction that the plan
leaves. A run's records hold both (`annealed_lr` and `lr`). `annealing.factor=1` leaves the plan alone, `decay_from=1`
NewBob.
"""

import math
from dataclasses import dataclass, replace

from asr_fed.config.schema import Decay, NewBobConfig


@dataclass(frozen=True)
class NewBob:
    """State of the schedule; `anneal` returns the next one."""

    lr: float
    previous_wer: float | None = None
    stalled: int = 0


def anneal(state: NewBob, wer: float, config: NewBobConfig) -> NewBob:
    """lr <- factor * lr where (previous WER - WER) / previous WER < threshold, but `patience` such WERs are tolerated
    (in a row or not). WERs are in percent; those before the first one below `ceiling` do not count.

    Otherwise this is SpeechBrain's NewBobScheduler, as a pure function of a state that a checkpoint can hold.
    """
    if state.previous_wer is None and wer >= config.ceiling:
        return state
    previous, state = state.previous_wer, replace(state, previous_wer=wer)
    if previous is None or (previous > 0 and (previous - wer) / previous >= config.threshold):
        return state
    if state.stalled < config.patience:
        return replace(state, stalled=state.stalled + 1)
    return replace(state, lr=state.lr * config.factor, stalled=0)


def planned_fall(done: float, begin: float, decay: Decay) -> float:
    """The factor on a learning rate after the part `done` (0 to 1) of a training.

    It is 1 until `begin`, then f = (1 - done) / (1 - begin), a straight line from 1 to 0, or the half cosine (1 -
    cos(pi f)) / 2 (arXiv 1608.03983, without restarts).
    """
    if done <= begin:
        return 1.0
    left = (1 - done) / (1 - begin)
    return left if decay is Decay.linear else (1 - math.cos(math.pi * left)) / 2
