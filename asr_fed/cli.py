"""The command line: `python train_fed.py hparams/cv_fr.yaml [key=value ...]`, installed as `asr-fed`.

Everything behind the config file is Hydra's: overrides, `--cfg job`, `--multirun`, `--help`.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check import check_config, explain
from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config
from asr_fed.errors import UserError

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
  weighting=wer_softmax|loss_softmax|num_examples|uniform
  model=crdnn|small|tiny          server=fed_avg|fed_avgm|fed_adam|fed_yogi|fed_adagrad|lamb
  engine.workers=N  engine.threads_per_worker=N  device=auto|cpu|cuda|mps  seed=N

  EXPERIMENT.yaml --help          all keys of an experiment and the choices of each group
  EXPERIMENT.yaml --cfg job       the config as it would run
  EXPERIMENT.yaml --multirun weighting=num_examples,wer_softmax   one run after another
"""


def main() -> None:
    """Entry point. Exits with 2 where the user has something to correct, 130 after Ctrl-C."""
    try:
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
        ConfigStore.instance().store("schema", Config)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # give us the exception, not a report of it
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        hydra.main(version_base="1.3", config_path=None)(_run)()
    except UserError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except KeyboardInterrupt:
        print("\nStopped. Continue with the same command, resume=true and this run_dir.", file=sys.stderr)
        sys.exit(130)


def _run(config: DictConfig) -> None:
    try:
        check_config(config)
        from asr_fed.train import train  # torch, SpeechBrain and Flower: seconds that --help need not wait for

        train(OmegaConf.to_object(config))  # type: ignore[arg-type]
    except UserError as error:  # here, since Hydra would print a line of its own about it
        _fail(str(error))
    except OmegaConfBaseException as error:
        _fail(explain(error))


def hydra_arguments(arguments: list[str]) -> list[str]:
    """Our command line in Hydra's words: the experiment's file first, its folder as Hydra's config path.

    Raises UserError where the file does not exist.
    """
    experiments = experiments_folder()
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        listing = "\n".join(f"  hparams/{path.name}" for path in sorted(experiments.glob("*.yaml")))
        print(USAGE.format(experiments=listing))
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else 2)
    given = Path(arguments[0]).with_suffix(".yaml")
    path = given if given.is_file() else experiments / given.name
    if not path.is_file():
        raise UserError(f"There is no experiment file {arguments[0]}, and none of that name in {experiments}.")
    # Hydra takes overrides only in one piece, behind the flags.
    overrides = [word for word in arguments[1:] if "=" in word or word.startswith(("+", "~"))]
    flags = [word for word in arguments[1:] if word not in overrides]
    return [
        *flags,
        "--config-path",
        str(path.parent.absolute()),
        "--config-name",
        path.stem,
        *overrides,
        f"hydra.searchpath=[file://{experiments}]",  # an experiment of one's own may use our groups
        "hydra.help.app_name=asr-fed",
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra.sweep.dir=outputs/multirun",
        "hydra.sweep.subdir=.",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
    ]


def _fail(message: str) -> None:
    print(f"asr-fed: {message}", file=sys.stderr)
    sys.exit(2)
