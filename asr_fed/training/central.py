"""Central training on pooled speech: the warm start, and the reference to which a federation is compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr_fed.config.schema import CentralConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance
from asr_fed.model.state import load_state, read_state
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import seed_everything
from asr_fed.training.annealing import NewBob, anneal, planned_fall
from asr_fed.training.averaging import WeightSum, add_if_last
from asr_fed.training.epoch import train_epoch
from asr_fed.training.optimizer import build_optimizer
from asr_fed.training.task import Task


@dataclass
class CentralState:
    """Everything that a killed training needs to continue as if it had not been killed."""

    newbob: NewBob
    weights: np.ndarray
    optimizer: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    best_weights: np.ndarray | None = None
    best_wer: float = float("inf")
    best_epoch: int = 0
    evaluations_without_gain: int = 0
    last: WeightSum = field(default_factory=WeightSum)
    reports: "tuple[EpochReport, ...]" = ()


@dataclass(frozen=True)
class EpochReport:
    """The numbers of one epoch. WERs are in percent.

    lr: of the last step.
    wer, best_wer: on dev, of this epoch and of the best so far; None where there is no WER: in an epoch that was not
        evaluated, and in a pre-training.
    annealed_lr: the config's lr after NewBob, without the schedule.
    steps: of all epochs so far.
    dev_loss, accuracy: of a pre-training, in place of the WER.
    """

    epoch: int
    loss: float
    lr: float
    wer: float | None
    best_wer: float | None
    annealed_lr: float
    steps: int
    dev_loss: float | None = None
    accuracy: float | None = None


def train_central(
    context: Task[Any],
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    config: CentralConfig,
    *,
    seed: int,
    name: str,
    checkpoint: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    keep: Callable[[Sequence[EpochReport]], None] = lambda reports: None,
) -> CentralState:
    """Train the model of `context` in place and leave it with the chosen weights.

    Continues from `checkpoint` if that exists; it is rewritten after every epoch. The learning rate is NewBob's on the
    dev WER, times a linear warm-up, times the planned fall after `decay_from`. The chosen weights are those of the best
    epoch on dev, or with `average_last` the mean over the last epochs. `keep` gets all epochs so far, with those before
    a kill, after each epoch and at the end.
    """
    model = context.model
    optimizer = build_optimizer(config.optimizer, model, config.lr)
    state = CentralState(NewBob(config.lr), read_state(model))
    if checkpoint.is_file():
        state = _load(checkpoint)
        load_state(model, state.weights)
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)

    while state.epoch < config.epochs and not _stalled(state, config):
        rng = seed_everything(seed, name, state.epoch)
        batches = training_batches(train, config.batch, rng)
        steps = len(batches)
        result = train_epoch(
            context,
            batches,
            optimizer,
            rng,
            clip=config.clip,
            with_ctc=config.ctc_epochs is None or state.epoch < config.ctc_epochs,
            lr=partial(_scheduled_lr, config, state.newbob.lr, state.epoch * steps, config.epochs * steps),
        )
        state.epoch += 1
        state.weights = read_state(model)
        if not np.isfinite(state.weights).all():
            raise UserError(f"{name}: epoch {state.epoch} made the weights infinite. Lower {name}.lr or {name}.clip.")
        lr, numbers = optimizer.param_groups[0]["lr"], dict[str, float]()
        if state.epoch % config.evaluate_every == 0 or state.epoch == config.epochs:
            evaluated = context.evaluate(dev, "dev")
            merit, numbers = evaluated.merit, dict(evaluated.numbers)
            state.newbob = anneal(state.newbob, merit, config.annealing)
            state.evaluations_without_gain += 1
            if merit < state.best_wer:
                state.best_wer, state.best_epoch, state.best_weights = merit, state.epoch, state.weights
                state.evaluations_without_gain = 0
        state.last = add_if_last(state.last, state.weights, state.epoch, config.epochs, config.average_last)
        state.optimizer = optimizer.state_dict()
        report = _report(state, numbers, loss=result.loss, lr=lr, steps=state.epoch * steps)
        state.reports = (*state.reports, report)
        _save(state, checkpoint)
        keep(state.reports)
        on_epoch(report)

    if state.last.count:
        state.weights = state.last.mean()
    elif state.best_weights is not None:
        state.weights = state.best_weights
    load_state(model, state.weights)
    keep(state.reports)
    return state


def _report(state: CentralState, numbers: Mapping[str, float], *, loss: float, lr: float, steps: int) -> EpochReport:
    """`numbers`: of the evaluation, by their names; none where there was none."""
    wers = [numbers.get("wer"), *(report.wer for report in state.reports)]
    return EpochReport(
        epoch=state.epoch,
        loss=loss,
        lr=lr,
        wer=numbers.get("wer"),
        best_wer=min((wer for wer in wers if wer is not None), default=None),
        annealed_lr=state.newbob.lr,
        steps=steps,
        dev_loss=numbers.get("dev_loss"),
        accuracy=numbers.get("accuracy"),
    )


def _scheduled_lr(config: CentralConfig, lr: float, first: int, total: int, step: int) -> float:
    """The lr of an epoch's n-th step, after `first` of `total` steps in earlier epochs."""
    step += first
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return lr * warmup * planned_fall(step / total, config.decay_from, config.decay)


def _stalled(state: CentralState, config: CentralConfig) -> bool:
    return config.early_stop is not None and state.evaluations_without_gain >= config.early_stop


def _save(state: CentralState, path: Path) -> None:
    reports = [asdict(report) for report in state.reports]
    packed = {"newbob": asdict(state.newbob), "last": vars(state.last), "reports": reports}
    save_checkpoint({**vars(state), **packed}, path)


def _load(path: Path) -> CentralState:
    content = load_checkpoint(path)
    typed = {
        "newbob": NewBob(**content["newbob"]),
        "last": WeightSum(**content.get("last", {})),
        "reports": tuple(EpochReport(**report) for report in content.get("reports", ())),
    }
    return CentralState(**{**content, **typed})
