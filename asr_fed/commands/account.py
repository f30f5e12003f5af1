"""`python -m asr_fed.simulation account RUN NEW [key=value ...]`: a finished run by the clock of another fleet.
`python -m asr_fed.simulation plan RUN [key=value ...]`: how long rounds would take that nobody has trained.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check import check_config
from asr_fed.config.explain import explain, nearest
from asr_fed.config.files import choices, experiments_folder
from asr_fed.config.paths import settle_paths
from asr_fed.config.schema import Config
from asr_fed.config.targets import targets
from asr_fed.config.trust import check_run_trust
from asr_fed.runs.run_dir import CONFIG, complete_config, has_begun
from asr_fed.runs.summary import read_summary
from asr_fed.system.errors import UserError

GROUPS = ("simulation", "carbon")
PLANNED = ("simulation", "federation")  # sections that a plan may have other values of
OF_THE_CLIENTS = "federation.clients"  # but not these: the clients are those of the run
NONE = "none"
SERVER = "asr_fed.aggregation.server_optimizer."
DESCRIPTION = """\
Where another clock would have had the same clients do the same work, the same training takes another time. This writes
RUN by that clock to the run directory NEW, without training; it refuses where the clock would have trained otherwise.

  python -m asr_fed.simulation account outputs/phones outputs/slow simulation.network=20
  python -m asr_fed.simulation account outputs/phones outputs/jetson simulation=jetson carbon=france
"""


PLAN = """\
How long the rounds of a config would take for the clients of RUN, the directory of a run that has begun, with
federation.rounds=0 or more. Nothing is trained.

  python -m asr_fed.simulation plan outputs/start federation.rounds=100 simulation=phones simulation.network=20
  python -m asr_fed.simulation plan outputs/start federation.rounds=200 simulation=phones simulation.buffer=5
"""


def add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = PLAN, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of simulation and federation")
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE.",
        help="a module whose classes the run's config may name, besides asr_fed's and torch.optim: naming one runs it",
    )


def plan_rounds(run_dir: Path, changes: Sequence[str], trust: Sequence[str] = ()) -> None:
    """Raises UserError for changes that make no sense, for a config that names what is not trusted, and as `plan`
    does."""
    config = with_changes(run_dir, run_dir, changes, PLANNED, trust)
    from asr_fed.pipeline.other_fleet import plan  # torch takes seconds
    from asr_fed.reporting.simulation import describe_fleet

    print(*describe_fleet(plan(run_dir, config)), sep="\n")


def add_account(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run that has ended")
    parser.add_argument("new", type=Path, metavar="NEW", help="the run directory to write")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of simulation and carbon")
    _add_trust(parser)


def account(run_dir: Path, folder: Path, changes: Sequence[str], trust: Sequence[str] = ()) -> None:
    """Raises UserError for changes that make no sense, for a config that names what is not trusted, and as
    `account_again` does."""
    if not changes:
        raise UserError("Nothing to change: give simulation=phones, simulation.network=20 or the like.")
    config = with_changes(run_dir, folder, changes, trust=trust)
    from asr_fed.pipeline.other_fleet import account_again  # torch takes seconds
    from asr_fed.reporting.carbon import describe_carbon
    from asr_fed.reporting.simulation import describe_fleet

    summary = account_again(run_dir, config, command_of(read_summary(run_dir).command, changes))
    print(*describe_fleet(summary.simulation), *describe_carbon(summary.carbon), f"Results are in {folder}.", sep="\n")


def with_changes(
    run_dir: Path, folder: Path, changes: Sequence[str], sections: Sequence[str] = GROUPS, trust: Sequence[str] = ()
) -> Config:
    """The config of a run, with other choices of GROUPS and other values of `sections`.

    Raises UserError, naming the key, and for an object of the run's config that is not of TRUST, `trust` or ours.
    """
    if not has_begun(run_dir):
        raise UserError(f"{run_dir} is not a run directory: it has no {CONFIG}.")
    config: Any = complete_config(run_dir / CONFIG)
    config.run_dir = str(folder)
    # The clients are prepared already, and to check a target is to import it.
    prepare, config.data.prepare = config.data.prepare, None
    check_run_trust([OmegaConf.to_container(node) for _, node in targets(config)], [SERVER, *trust], run_dir)
    try:
        given = [_read(change, sections) for change in changes]
        for key, value in given:
            if key in GROUPS:
                config[key] = None
                if value != NONE:
                    config = OmegaConf.merge(config, {key: OmegaConf.load(_choice(key, value))})
        for key, value in given:
            if key not in GROUPS:
                OmegaConf.update(config, key, OmegaConf.select(OmegaConf.from_dotlist([f"{key}={value}"]), key))
        settle_paths(config)
        check_config(config)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    config.data.prepare = prepare
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def command_of(command: str, changes: Sequence[str]) -> str:
    """The command line that would have trained the run with these changes."""
    keys = {change.partition("=")[0] for change in changes}

    def stays(word: str) -> bool:
        key = word.partition("=")[0]
        return key not in keys and key.partition(".")[0] not in keys

    return shlex.join([*filter(stays, shlex.split(command)), *changes])


def _read(change: str, sections: Sequence[str]) -> tuple[str, str]:
    key, equals, value = change.partition("=")
    section = key.partition(".")[0]
    whole = key == section and section not in GROUPS
    if not equals or section not in sections or whole or key.startswith(OF_THE_CLIENTS):
        raise UserError(f"{change}: only {' and '.join(sections)} can be changed here of that run, as key=value.")
    return key, value


def _choice(group: str, name: str) -> Path:
    path = experiments_folder() / group / f"{name}.yaml"
    if not path.is_file():
        known = choices(group)
        raise UserError(f"There is no {group}={name}. It is one of {', '.join(known)}.{nearest(name, known)}")
    return path
