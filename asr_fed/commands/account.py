"""`python -m asr_fed.simulation account RUN NEW [key=value ...]`: a finished run by the clock of another fleet."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check import check_config
from asr_fed.config.explain import explain, nearest
from asr_fed.config.files import experiments_folder
from asr_fed.config.paths import settle_paths
from asr_fed.config.schema import Config
from asr_fed.runs.run_dir import CONFIG, complete_config, has_begun
from asr_fed.runs.summary import read_summary
from asr_fed.system.errors import UserError

GROUPS = ("simulation", "carbon")
NONE = "none"
DESCRIPTION = """\
Where another clock would have had the same clients do the same work, the same training takes another time. This writes
RUN by that clock to the run directory NEW, without training; it refuses where the clock would have trained otherwise.

  python -m asr_fed.simulation account outputs/phones outputs/slow simulation.network=20
  python -m asr_fed.simulation account outputs/phones outputs/jetson simulation=jetson carbon=france
"""


def add_account(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run that has ended")
    parser.add_argument("new", type=Path, metavar="NEW", help="the run directory to write")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of simulation and carbon")


def account(run_dir: Path, folder: Path, changes: Sequence[str]) -> None:
    """Raises UserError for changes that cannot be meant, and as `account_again` does."""
    config = with_changes(run_dir, folder, changes)
    from asr_fed.pipeline.other_fleet import account_again  # torch takes seconds
    from asr_fed.reporting.carbon import describe_carbon
    from asr_fed.reporting.simulation import describe_fleet

    summary = account_again(run_dir, config, command_of(read_summary(run_dir).command, changes))
    print(*describe_fleet(summary.simulation), *describe_carbon(summary.carbon), f"Results are in {folder}.", sep="\n")


def with_changes(run_dir: Path, folder: Path, changes: Sequence[str]) -> Config:
    """The config of a run, with other choices and values of GROUPS. Raises UserError, naming the key."""
    if not has_begun(run_dir):
        raise UserError(f"{run_dir} is not a run directory: it has no {CONFIG}.")
    if not changes:
        raise UserError("Nothing to change: give simulation=phones, simulation.network=20 or the like.")
    config: Any = complete_config(run_dir / CONFIG)
    config.run_dir = str(folder)
    try:
        for key, value in map(_read, changes):
            if key in GROUPS:
                config[key] = None
                if value != NONE:
                    config = OmegaConf.merge(config, {key: OmegaConf.load(_choice(key, value))})
        for key, value in map(_read, changes):
            if key not in GROUPS:
                OmegaConf.update(config, key, OmegaConf.select(OmegaConf.from_dotlist([f"{key}={value}"]), key))
        settle_paths(config)
        check_config(config)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def command_of(command: str, changes: Sequence[str]) -> str:
    """The command line that would have trained the run with these changes."""
    keys = {change.partition("=")[0] for change in changes}

    def stays(word: str) -> bool:
        key = word.partition("=")[0]
        return key not in keys and key.partition(".")[0] not in keys

    return shlex.join([*filter(stays, shlex.split(command)), *changes])


def _read(change: str) -> tuple[str, str]:
    key, equals, value = change.partition("=")
    if not equals or key.partition(".")[0] not in GROUPS:
        raise UserError(f"{change}: only {' and '.join(GROUPS)} can be changed of what has been trained, as key=value.")
    return key, value


def _choice(group: str, name: str) -> Path:
    path = experiments_folder() / group / f"{name}.yaml"
    if not path.is_file():
        choices = sorted(each.stem for each in path.parent.glob("*.yaml"))
        raise UserError(f"There is no {group}={name}. It is one of {', '.join(choices)}.{nearest(name, choices)}")
    return path
