"""Paths of a config count from where the run was begun."""

import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr_fed.config.paths import settle_paths
from asr_fed.config.schema import Config, SimulationConfig


def config(**data: object) -> DictConfig:
    content = {"run_dir": "~/runs/one", "data": {"name": "mine", "language": "en", **data}}
    merged = OmegaConf.merge(OmegaConf.structured(Config), content)
    assert isinstance(merged, DictConfig)
    return merged


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_become_absolute_and_a_tilde_is_home(folder: Path) -> None:
    settled = config(root="../corpora/en", prepare={"_target_": "x", "root": "${data.root}"})
    settled.warm_start.checkpoint = "~/models/a"
    settle_paths(settled)
    home = os.path.expanduser("~")
    assert settled.run_dir == f"{home}/runs/one"
    assert settled.data.root == settled.data.prepare.root == str(folder.parent / "corpora" / "en")
    assert settled.data.prepared == str(folder / "prepared" / "mine")
    assert settled.warm_start.checkpoint == f"{home}/models/a"
    assert settled.data.parts.warm_up_file is None


def test_a_resumed_run_finds_its_relative_paths_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = config(root="corpora/en")
    settle_paths(begun)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    for given in ("corpora/en", "./corpora/en", str(folder / "corpora" / "en"), "../corpora/en"):
        resumed = config(root=given)
        settle_paths(resumed, begun)
        assert resumed.data.root == str(folder / "corpora" / "en")
        assert resumed.data.prepared == begun.data.prepared
    other = config(root="corpora/fr")
    settle_paths(other, begun)
    assert other.data.root == str(folder / "elsewhere" / "corpora" / "fr")


def test_a_table_of_ones_own_is_a_path_and_a_name_is_none(folder: Path) -> None:
    settled = config()
    settled.simulation = SimulationConfig("phones", "2.5", availability="tables/nights.csv")
    settle_paths(settled)
    assert (settled.simulation.devices, settled.simulation.network) == ("phones", "2.5")
    assert settled.simulation.availability == str(folder / "tables" / "nights.csv")
