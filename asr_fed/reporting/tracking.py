"""Trackers, which get the numbers of a run besides its own files: always TensorBoard; MLflow or Weights & Biases if
chosen."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr_fed.config.schema import Config, Tracking
from asr_fed.runs.run_dir import flat
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text

# Called with a number: its name ("federation/wer"), value and step (the round or epoch of the part before the /).
Track = Callable[[str, float, int], None]
INSTALL = {Tracking.mlflow: "mlflow", Tracking.wandb: "wandb"}


@contextmanager
def open_tracking(config: Config) -> Iterator[Track]:
    """Send numbers to all trackers while the context lasts; a resumed run continues the same record in each.

    Raises UserError where the package of `config.tracking` is not installed.
    """
    check_tracking(config)
    run_dir = Path(config.run_dir)
    trackers = {None: _tensorboard, Tracking.mlflow: _mlflow, Tracking.wandb: _wandb}
    with ExitStack() as stack:
        opened = [stack.enter_context(trackers[kind](config, run_dir)) for kind in {None, config.tracking}]

        def track(name: str, value: float, step: int) -> None:
            for each in opened:
                each(name, value, step)

        yield track


def check_tracking(config: Config) -> None:
    """Raises UserError where the package of `config.tracking` is not installed."""
    if config.tracking is not None and find_spec(INSTALL[config.tracking]) is None:
        package = INSTALL[config.tracking]
        raise UserError(f"tracking={config.tracking.name} needs a package: pip install {package}, or tracking=null.")


@contextmanager
def _tensorboard(_config: Config, run_dir: Path) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(run_dir / "tensorboard"))
    try:
        yield board.add_scalar
    finally:
        with suppress(OSError):  # a full disk has already been reported, with the name of the file
            board.close()


@contextmanager
def _mlflow(config: Config, run_dir: Path) -> Iterator[Track]:
    """Track to the server of MLFLOW_TRACKING_URI, or to a local store."""
    import mlflow

    mlflow.set_experiment(config.data.name)
    begun = _begun(run_dir).get("mlflow")
    with mlflow.start_run(run_id=begun, run_name=None if begun else run_dir.name) as run:
        if begun is None:
            mlflow.log_params(_settings(config))
            _note(run_dir, mlflow=run.info.run_id)
        yield lambda name, value, step: mlflow.log_metric(name, value, step=step)


@contextmanager
def _wandb(config: Config, run_dir: Path) -> Iterator[Track]:
    """Track to the account of WANDB_API_KEY, or with WANDB_MODE=offline to files in the run directory."""
    import wandb

    begun = _begun(run_dir).get("wandb")
    with wandb.init(
        project="asr_fed", name=run_dir.name, dir=run_dir, id=begun, resume="allow", config=_settings(config)
    ) as run:
        _note(run_dir, wandb=run.id)
        counted: set[str] = set()

        def track(name: str, value: float, step: int) -> None:
            part = name.split("/")[0]  # its own step would have to grow over all parts of a run
            if part not in counted:
                counted.add(part)
                run.define_metric(f"{part}/*", step_metric=f"{part}/step")
            run.log({name: value, f"{part}/step": step})

        yield track


def _settings(config: Config) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return flat(OmegaConf.structured(config))


def _begun(run_dir: Path) -> Mapping[str, str]:
    """Ids that trackers gave to earlier processes of this run."""
    path = run_dir / "tracking.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _note(run_dir: Path, **ids: str) -> None:
    write_text(run_dir / "tracking.json", json.dumps({**_begun(run_dir), **ids}) + "\n")
