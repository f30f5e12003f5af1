"""The run directory: its files, and the rules for continuing a run in it."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed import __version__
from asr_fed.config.paths import PATHS, TABLES, same_place
from asr_fed.config.schema import SEARCH, Config, Decoder, FeatureConfig
from asr_fed.system.errors import UserError
from asr_fed.system.files import cannot_be_written, write_text

# A resumed run may differ in these keys and sections, and in some of the beam search: see `may_change`.
MAY_CHANGE = (
    "resume",
    "run_dir",
    "engine.kind",
    "engine.workers",
    "engine.gpus_per_worker",  # as with kind and nodes, the device may become another
    "engine.address",
    "engine.certificates",
    "engine.nodes",
    "engine.wait",
    "federation.rounds",
    "federation.round_timeout",
    "federation.client_timeout",
    "federation.min_success",
    "evaluation.test_decoder",
    "evaluation.report_clips",
    "tracking",
    "carbon",
    "personalise",
    "personalisation",
)
# Modules that older run directories and experiment files name by `_target_`, and where they are today.
MOVED = (
    ("asr_fed.federation.weighting.", "asr_fed.aggregation.weighting."),
    ("asr_fed.federation.server_optimizer.", "asr_fed.aggregation.server_optimizer."),
    ("data_prep.", "asr_fed.data_prep."),
    ("flwr.serverapp.strategy.", "asr_fed.aggregation.server_optimizer."),
)
CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"
PACKAGES = ("torch", "torchaudio", "speechbrain", "flwr", "sentencepiece", "jiwer", "hydra-core", "numpy")


def run_of(model: Path) -> Path | None:
    """The run directory: `model` itself, or the one that has `model` as a checkpoint."""
    if has_begun(model):
        return model
    folder = model.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS and has_begun(folder.parent) else None


@contextmanager
def claim_run_dir(config: Config) -> Iterator[Path]:
    """Create or reopen the run directory, and lock it against other processes while the context lasts.

    The directory belongs to a run only after `begin_run`: if preparation fails before, another run may use it.

    Raises UserError if another process runs there, if results would be overwritten, if there is nothing to resume, or
    if the config differs from that of the run to resume.
    """
    run_dir = Path(config.run_dir)
    path = run_dir / CONFIG
    nothing = UserError(
        f"resume=true, but {run_dir} holds no run that has begun to train. Give its run_dir, or leave resume out."
    )
    if config.resume and not run_dir.is_dir():
        raise nothing
    with exclusive(run_dir / ".lock", f"Another process is running in {run_dir}."):
        if config.resume and not path.is_file():
            raise nothing
        if path.is_file():
            _check_continues(config, path)
        yield run_dir


def begin_run(config: Config) -> None:
    """Write config.yaml: from now on the directory belongs to this run, and is resumed with its values."""
    write_config(config, Path(config.run_dir))


def write_config(config: Config, run_dir: Path) -> None:
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))


def has_begun(run_dir: Path) -> bool:
    return (run_dir / CONFIG).is_file()


def latest_run(pattern: str) -> Path | None:
    """The run directory that was begun or continued last, among those that match this `glob` pattern."""
    found = [Path(path).parent for path in glob(f"{pattern}/{CONFIG}")]  # noqa: PTH207 a whole path
    return max(found, key=lambda run_dir: (run_dir / CONFIG).stat().st_mtime_ns, default=None)


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`. Raises UserError, with `refusal`, where another process holds it."""
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(refusal) from None
    except OSError as error:
        raise cannot_be_written(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _check_continues(config: Config, path: Path) -> None:
    run_dir = path.parent
    if not config.resume:
        raise UserError(f"{run_dir} holds a run already: add resume=true to continue it, or give another run_dir.")
    try:
        old = flat(OmegaConf.create(OmegaConf.to_yaml(complete_config(path), resolve=True)))
    except OmegaConfBaseException:
        old = flat(load_config(path))
    new = flat(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    differing = [key for key in differing if not (key in (*PATHS, *TABLES) and same_place(new.get(key), old.get(key)))]
    if differing := [key for key in differing if not may_change(key, config)]:
        planned = "federation.rounds" in differing
        raise UserError(
            f"{run_dir} was begun with other values of {', '.join(differing)}. Resume with the same config, "
            "or start a new run_dir."
            + (" (With decay_from below 1 or with average_last the number of rounds is part of the plan.)" * planned)
        )


def load_config(path: Path) -> Any:
    """The config.yaml of a run, with today's names of modules that have moved since."""
    content: Any = OmegaConf.create(with_current_names(path.read_text(encoding="utf-8")))
    if (mu := content.get("federation", {}).pop("prox", 0.0)) > 0:  # 0.1.0 had FedProx as a setting of its own
        content.algorithm = {"_target_": "asr_fed.algorithms.fed_prox.FedProx", "mu": mu}
    return content


def complete_config(path: Path) -> Any:
    """The same with the default of each setting that the run's version did not have yet.

    Raises OmegaConfBaseException where it has settings that are no more.
    """
    content = load_config(path)
    if "features" in content:
        content.features = asdict(FeatureConfig.saved(content.features))
    return OmegaConf.merge(OmegaConf.structured(Config), content)


def with_current_names(text: str) -> str:
    """YAML of an older version, with today's names behind each `_target_`."""
    for old, new in MOVED:
        text = text.replace(f"_target_: {old}", f"_target_: {new}")
    return text


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by dotted key."""
    if OmegaConf.is_dict(node):
        return {path: value for key in node for path, value in flat(node[key], f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def may_change(key: str, config: Config) -> bool:
    """Whether a resumed run may have another value of `key`: nothing that has been computed so far depends on it.

    The settings of the beam search are free as long as only the test reads them. A dev or client decoder that
    searches steers the learning rate and the weights of clients by them, and one that makes hypotheses what is trained
    on. The number of rounds is free as long as neither a learning rate nor an average was planned by it.
    """
    if key == "federation.rounds":
        return config.federation.decay_from == 1 and config.federation.average_last is None
    if key.startswith(f"evaluation.{SEARCH}"):
        labels = config.federation.pseudo_labels
        used = {config.evaluation.dev_decoder, config.evaluation.client_decoder}
        return Decoder.beam not in used | ({labels.decoder} if labels.on else set())
    return any(f"{key}.".startswith(f"{name}.") for name in MAY_CHANGE)


def versions() -> dict[str, str]:
    return {"asr_fed": __version__, "python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with a + where it was changed; None outside one."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
