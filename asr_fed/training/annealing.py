"""NewBob: the learning rate falls when the word error rate stops falling."""

from dataclasses import dataclass, replace

from asr_fed.config.schema import NewBobConfig


@dataclass(frozen=True)
class NewBob:
    """State of the schedule; `anneal` returns the next one."""

    lr: float
    previous_wer: float | None = None
    stalled: int = 0


def anneal(state: NewBob, wer: float, config: NewBobConfig) -> NewBob:
    """lr <- factor * lr where (previous WER - WER) / previous WER < threshold, `patience` such WERs forgiven (in
    a row or not).

    The rule is SpeechBrain's NewBobScheduler, here as a pure function of a state that a checkpoint can hold.
    """
    previous, state = state.previous_wer, replace(state, previous_wer=wer)
    if previous is None or (previous > 0 and (previous - wer) / previous >= config.threshold):
        return state
    if state.stalled < config.patience:
        return replace(state, stalled=state.stalled + 1)
    return replace(state, lr=state.lr * config.factor, stalled=0)
