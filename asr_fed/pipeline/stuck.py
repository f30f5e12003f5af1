"""What to try if a training has learned nothing: a federation cannot repair a bad warm start, and may gain nothing."""

import numpy as np

from asr_fed.config.schema import Config
from asr_fed.federation.state import FederationState
from asr_fed.training.central import EpochReport

FEW_STEPS = 3000  # a small model from scratch needs about as many


def describe_stuck(name: str, report: EpochReport, config: Config) -> str:
    """What to change, the most likely first; empty if there is no dev WER, or one was below the annealing's
    ceiling.

    `name` is warm_start, central or fine_tune, `report` of the last epoch so far.
    """
    settings = getattr(config, name)
    if report.best_wer is None or report.best_wer < settings.annealing.ceiling:
        return ""
    tries = []
    if not config.features.subtract_mean:
        tries.append("features.subtract_mean=true")
    if report.annealed_lr < settings.lr:
        tries.append(f"{name}.annealing.factor=1 (the rate has fallen to {report.annealed_lr:.2g})")
    if config.loss.ctc_weight == 0:
        tries.append("loss.ctc_weight=0.3 (attention alone aligns late)")
    if report.steps < FEW_STEPS:
        smaller = f" or a smaller {name}.batch.max_utterances" if settings.batch.max_utterances > 4 else ""
        tries.append(f"more than {report.steps} steps (a larger {name}.epochs{smaller})")
    if name == "warm_start":
        tries.append("more speech (a larger data.parts.warm_up_speakers)")
    tries.append(f"another {name}.lr")
    lost = ", and rounds of federation do not repair that" if name == "warm_start" else ""
    return (
        f"{name}: next to nothing is recognised after {report.epoch} epochs (dev WER {report.best_wer:.1f} at best)"
        f"{lost}. Try, in this order: {'; '.join(tries)}. See docs/own_corpus.md."
    )


def describe_no_gain(state: FederationState, config: Config) -> str:
    """What to change where no round was better on dev than the start, the most likely first; empty where one was."""
    if state.best_round or not state.round:
        return ""
    buffers = (config.federation.buffer, config.simulation.buffer if config.simulation else None)
    tries = []
    if config.server.get("server_momentum", 0) and any(buffers):
        tries.append("server=fed_avg (stale updates and a server momentum add up)")
    root = float(np.sqrt(np.median(state.optimizer.get("v", np.inf))))
    if 0 < root < config.server.get("tau", 0):
        tries.append(f"server.tau={root / 10:.0e} (the root of v is {root:.0e}: with a larger tau nothing adapts)")
    tries.append(f"a smaller federation.lr than {config.federation.lr:g}")
    if not config.federation.held_out.replay_warm_up:
        tries.append("federation.held_out.replay_warm_up=true")
    kept = "the last rounds'" if state.last.count else "the start's"
    return (
        f"federation: none of {state.round} rounds was better on the dev speakers than the start. federated.pt has "
        f"{kept} weights. Try, in this order: {'; '.join(tries)}. See docs/closing_the_gap.md."
    )
