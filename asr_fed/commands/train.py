"""The command line: `python train_fed.py hparams/cv_fr.yaml [key=value ...]`, installed as `asr-fed`.

Everything after the config file is parsed by Hydra: overrides, `--cfg job`, `--multirun`, `--help`.
"""

import atexit
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.commands.experiment_file import find_experiment, register_config_files
from asr_fed.commands.overrides import hydra_words
from asr_fed.config.check import check_config, check_new_run
from asr_fed.config.explain import explain
from asr_fed.config.files import choices, experiments_folder
from asr_fed.config.paths import settle_paths
from asr_fed.config.schema import Config
from asr_fed.runs.run_dir import CONFIG, has_begun, latest_run, load_config
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import Stopped, exit_status
from asr_fed.system.files import NoRoom, is_no_room

if TYPE_CHECKING:
    from asr_fed.runs.summary import PretrainingSummary, RunSummary

    Summary = RunSummary | PretrainingSummary

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PROGRAM = "asr-fed"
PATIENCE = 15  # seconds for a clean stop; after that the process is ended at once, with its workers
NOW, ANY_TIME = re.compile(r"\$\{now:[^}]*\}"), "ANY-TIME"
USAGE = """\
Federated training of end-to-end speech recognisers.

  python train_fed.py EXPERIMENT.yaml [key=value ...] [Hydra flags]

Experiments that come with asr_fed:
{experiments}

Keys people change most:
  mode=federated|central          a federation, or the centralised reference alone
  run_dir=DIR  resume=true        where results go; continue a run that was stopped
  data.root=DIR                   the corpus on disk
  federation=cross_silo|cross_device   federation.rounds=N  federation.cohort=N  federation.local_epochs=N
  weighting={weighting}
  warm_start=MODEL                start from a run directory, a checkpoint or a SpeechBrain folder
  model={model}
  server={server}
  engine=local|ray|deployment     engine.workers=N  engine.threads_per_worker=N
  device=auto|cpu|cuda|mps        seed=N

  EXPERIMENT.yaml --help          all keys of an experiment and the choices of each group
  EXPERIMENT.yaml --cfg job       the config as it would run
  EXPERIMENT.yaml --multirun weighting=num_examples,wer_softmax   one run after another, compared at the end
"""


def main() -> int:
    """Entry point. Returns 2 where the user has something to correct, 130 after Ctrl-C, 143 after SIGTERM."""
    stop_on_signals()
    return exit_status(PROGRAM, _hydra)


def _hydra() -> None:
    """Compose the config and call `_run` with it, once or for each run of a sweep."""
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    ConfigStore.instance().store("schema", Config)
    register_config_files()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise the exception instead of printing it
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    with _config_errors_in_words():
        hydra.main(version_base="1.3", config_path=None)(_run)()


@contextmanager
def _config_errors_in_words() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error


def stop_on_signals() -> None:
    """From now on the first Ctrl-C or SIGTERM raises Stopped in the main thread; a second ends the process at once."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs of a shell ignore it
            signal.signal(number, _stop)
    # Registered first, and so called last: after that Python gives SIGALRM its default action, which would end a
    # process that takes long to go, with another status.
    atexit.register(signal.alarm, 0)


def _stop(number: int, _frame: object) -> None:
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    # Python can lose an exception that is raised at a bad moment, or leave a lock that others then wait for.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(Stopped(number).status))
    signal.alarm(PATIENCE)
    for worker in active_children():  # otherwise the exit may wait for their work
        worker.terminate()
    # Not print, because print may have been interrupted. After a second signal nothing else would show the cursor
    # again.
    os.write(2, b"\nStopping. Once more to end at once.\n" + (b"\x1b[?25h" if os.isatty(2) else b""))
    raise Stopped(number)


def _run(config: DictConfig) -> "Summary | str":
    """One run; returns its summary. In a sweep the reason where it failed, so that the others go on."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return _run_of_sweep(config)
    summaries: list[Summary] = []
    status = exit_status(PROGRAM, lambda: summaries.append(_train(config)))
    if status:  # here, because Hydra would print its own line about an exception
        sys.exit(status)
    return summaries[0]


def _run_of_sweep(config: DictConfig) -> "Summary | str":
    number = HydraConfig.get().job.num
    try:
        return _train(config, f"-{number}")  # the time in its name is that of the sweep
    except UserError as error:
        message = str(error)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
    print(f"{PROGRAM}: run {number} of the sweep failed: {message}", file=sys.stderr)
    return message


def _train(config: DictConfig, suffix: str = "") -> "Summary":
    """Train in run_dir + `suffix`; if that is interrupted, print how to continue.

    Raises UserError for errors that the user can fix.
    """
    with _config_errors_in_words():
        check_config(config)
        config.run_dir = _run_dir(config, suffix)
        resumed = config.resume and has_begun(Path(config.run_dir))
        if not resumed:
            check_new_run(config)
        settle_paths(config, load_config(Path(config.run_dir) / CONFIG) if resumed else None)
        settings: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    from asr_fed.pipeline.train import train  # torch, SpeechBrain and Flower take seconds: not for --help

    try:
        return train(settings, _command())
    except KeyboardInterrupt:
        print(f"Stopped. {_how_to_go_on(config.run_dir)}", file=sys.stderr)
        raise
    except NoRoom as error:
        raise NoRoom(f"{error} Make room. {_how_to_go_on(config.run_dir)}") from error
    except OSError as error:  # from a file that is not written whole, such as TensorBoard's
        if not is_no_room(error):
            raise
        raise NoRoom(f"There is no room left: {error}. Make room. {_how_to_go_on(config.run_dir)}") from error


def _run_dir(config: DictConfig, suffix: str) -> str:
    """The run directory; with resume=true and a time in its name, the latest one that matches.

    Raises UserError where there is none.
    """
    written = OmegaConf.to_container(config, resolve=False)["run_dir"]  # type: ignore[index,call-overload]
    if not (config.resume and NOW.search(written)):
        return str(config.run_dir) + suffix
    named = OmegaConf.merge(config, {"run_dir": NOW.sub(ANY_TIME, written)})
    pattern = escape(str(Path(named.run_dir).expanduser())).replace(ANY_TIME, "*") + suffix
    found = latest_run(pattern)
    if found is None:
        raise UserError(f"resume=true, but there is no run at {pattern}. Give its run_dir, or leave resume out.")
    return str(found)


def _command() -> str:
    """The command that repeats this run in a new run directory."""
    hydra_config = HydraConfig.get()
    changed = [word for word in hydra_config.overrides.task if word.split("=")[0] not in ("run_dir", "resume")]
    (folder,) = (source.path for source in hydra_config.runtime.config_sources if source.provider == "main")
    file = os.path.relpath(Path(folder) / f"{hydra_config.job.config_name}.yaml")
    return shlex.join(["python", "train_fed.py", file, *changed])


def _how_to_go_on(run_dir: str) -> str:
    if not has_begun(Path(run_dir)):
        return "No training has begun, and what was prepared is kept: give the same command again."
    hydra_config, words = HydraConfig.get(), ["resume=true", f"run_dir={run_dir}"]
    if hydra_config.mode is not RunMode.MULTIRUN:
        return f"The last checkpoint is whole. Continue with the same command, {shlex.join(words)}"
    words = [word for word in hydra_config.overrides.task if not word.startswith("run_dir=")] + words
    return f"The last checkpoint is whole. Continue this run alone, without --multirun: {shlex.join(words)}"


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Our command line as arguments of Hydra: the experiment's file first, its folder as Hydra's config path.

    Raises UserError where the file does not exist, or a word cannot be read.
    """
    if not arguments or arguments[0].startswith("-"):
        listing = "\n".join(f"  hparams/{path.name}" for path in sorted(experiments_folder().glob("*.yaml")))
        groups = {group: "|".join(choices(group)) for group in ("weighting", "model", "server")}
        print(USAGE.format(experiments=listing, **groups))
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    path = find_experiment(arguments[0])
    flags, overrides = hydra_words(arguments[1:])
    return [
        *flags,  # Hydra takes overrides only in one sequence, after the flags
        "--config-path",
        str(path.parent.absolute()),
        "--config-name",
        path.stem,
        *overrides,
        "hydra.help.app_name=asr-fed",
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra.sweep.dir=outputs/multirun/${now:%Y%m%d-%H%M%S}",
        "hydra.sweep.subdir=.",
        "+hydra.callbacks.sweep._target_=asr_fed.commands.sweep.Sweep",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]
