"""The paths of a config. They are made absolute, because processes with other working directories read them, too."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

PATHS = (
    "data.root",
    "data.prepared",
    "data.prepare.root",
    "data.parts.warm_up_file",
    "data.parts.transcribed_file",
    "model.folder",
    "warm_start.checkpoint",
    "warm_start.encoder",
    "engine.certificates",
)

# The name of a table that comes with asr_fed, or a file of one's own: that has an ending.
TABLES = ("simulation.devices", "simulation.network", "simulation.availability")


def settle_paths(config: DictConfig, begun: DictConfig | None = None) -> None:
    """Make the paths of `config` absolute, and expand ~, in place.

    A relative path starts at the working directory. If a resumed run's path in `begun` (the config it was begun with)
    ends in it, that path is taken.
    """
    config.run_dir = str(Path(config.run_dir).expanduser())
    for key in (*PATHS, *TABLES):
        given = OmegaConf.select(config, key, default=None)
        if isinstance(given, str) and (key in PATHS or is_file_name(given)):
            before = None if begun is None else OmegaConf.select(begun, key, default=None)
            path = Path(str(before) if same_place(given, before) else given).expanduser()
            OmegaConf.update(config, key, os.path.abspath(path))  # noqa: PTH100 resolve() would follow links


def same_place(given: Any, before: Any) -> bool:
    """Whether one of the two paths is relative and the other one ends in it."""
    if not isinstance(given, str) or not isinstance(before, str):
        return False
    short, long = sorted((Path(os.path.normpath(each)) for each in (given, before)), key=lambda each: len(each.parts))
    return not short.is_absolute() and long.parts[-len(short.parts) :] == short.parts


def is_file_name(table: str) -> bool:
    """Whether this is no name of a table that comes with asr_fed, nor a number such as 2.5."""
    return Path(table).suffix[1:].isalpha()
