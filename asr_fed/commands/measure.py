"""`python -m asr_fed.simulation.measure EXPERIMENT [key=value ...]`: this machine as the reference of a simulation."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.commands.experiment_file import find_experiment, register_config_files
from asr_fed.commands.overrides import hydra_words
from asr_fed.config.check import check_config
from asr_fed.config.explain import explain
from asr_fed.config.schema import Config
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status

DESCRIPTION = """\
Time local training of an experiment's model on this machine: the reference that the devices of a simulation are slower
than. It needs no corpus, takes about a minute for a small model, and prints words for the command line.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m asr_fed.simulation.measure",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="its file, such as hparams/demo_fr.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as model=small device=cuda")
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.simulation.measure", lambda: measure(chosen.experiment, chosen.overrides))


def measure(experiment: str, overrides: Sequence[str]) -> None:
    """Raises UserError for an experiment that cannot be composed, and a device that is not there."""
    config = composed(experiment, ["data.root=none", *overrides])  # no corpus is read
    import torch  # seconds that --help need not wait for

    from asr_fed.runs.experiment import pick_device, settle_encoder
    from asr_fed.simulation.reference import measure_machine

    torch.set_num_threads(config.engine.threads_per_worker)
    settle_encoder(config)
    device = pick_device(config.device)
    found = measure_machine(config, device)
    threads = f", {torch.get_num_threads()} thread(s), CPU seconds" if device.type == "cpu" else ""
    print(f"# {device}{threads}")
    print(" ".join(f"simulation.reference.{name}={value:g}" for name, value in asdict(found).items()))


def composed(experiment: str, overrides: Sequence[str]) -> Config:
    """The checked config of an experiment, as the main command would compose it."""
    path = find_experiment(experiment).absolute()
    ConfigStore.instance().store("schema", Config)
    register_config_files()
    flags, words = hydra_words(overrides)
    if flags:
        raise UserError(f"{flags[0]} is not taken here.")
    try:
        with initialize_config_dir(str(path.parent), version_base="1.3"):
            config: DictConfig = compose(path.stem, overrides=words)
            check_config(config)
            settings: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
            return settings
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
