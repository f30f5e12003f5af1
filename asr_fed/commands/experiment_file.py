"""The experiment's file that a command line names, and how Hydra reads it and the groups that it takes."""

import io
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from asr_fed.config.files import experiments_folder
from asr_fed.data.text_file import read_text
from asr_fed.runs.run_dir import with_current_names
from asr_fed.system.errors import UserError

SUFFIX = ".yaml"


def find_experiment(name: str) -> Path:
    """The file `name`; of a bare name, or one in hparams/, else the one of that name that comes with asr_fed.

    The suffix may be left out. Raises UserError where there is no such file.
    """
    path = Path(name if name.endswith(SUFFIX) else name + SUFFIX)
    if path.is_file():
        return path
    if Path(name).is_file():
        raise UserError(f"{name} is not read: the name of an experiment's file ends in {SUFFIX}. Rename it.")
    shipped = experiments_folder() / path.name
    if name.removesuffix(SUFFIX) in (path.stem, f"hparams/{path.stem}") and shipped.is_file():
        return shipped
    known = ", ".join(f"hparams/{each.name}" for each in sorted(experiments_folder().glob(f"*{SUFFIX}")))
    raise UserError(f"There is no experiment file {name}. With asr_fed come {known}.")


def register_config_files() -> None:
    """From now on Hydra reads experiments, and the groups of asr_fed, with `ConfigFile`."""
    Plugins.instance().register(ConfigFile)
    Plugins.instance().register(SearchPath)


class SearchPath(SearchPathPlugin):
    """Users' own experiments, in any folder, may use our groups."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{ConfigFile.scheme()}://{element.path}"
        search_path.append("asr_fed", f"{ConfigFile.scheme()}://{experiments_folder()}")


class ConfigFile(FileConfigSource):
    """A folder of YAML files, read as people save them. Old names and `warm_start: MODEL` are understood."""

    @staticmethod
    def scheme() -> str:
        return "asr-fed"

    def load_config(self, config_path: str) -> ConfigResult:
        """Raises UserError where the file is no YAML."""
        path = Path(self.path, self._normalize_file_name(config_path))
        text = with_current_names(read_text(path))
        try:
            content: Any = OmegaConf.load(io.StringIO(text))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else str(path)
            raise UserError(f"{where}: this is no YAML ({getattr(error, 'problem', None) or error}).") from error
        if not isinstance(content, DictConfig):
            raise UserError(f"{path} holds no keys: an experiment's file begins with `defaults:` and `- schema`.")
        if isinstance(content.get("warm_start"), str):
            content.warm_start = {"checkpoint": content.warm_start}
        return ConfigResult(
            config=content,
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:512]),
        )
