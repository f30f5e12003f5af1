"""What an installed wheel brings, and what still works under its former name."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel that is built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    [path] = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with ZipFile(path) as archive:
        return set(archive.namelist())


def test_a_wheel_takes_one_name_of_the_users_site_packages(wheel: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"asr_fed"}


def test_a_wheel_holds_every_file_of_the_package_and_the_settings(wheel: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "asr_fed", "hparams"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    sources = {name for name in listed if (ROOT / name).is_file()}
    if not sources:
        pytest.skip("not a git checkout")
    expected = {name if name.startswith("asr_fed/") else f"asr_fed/{name}" for name in sources}
    assert expected <= wheel
    assert {"asr_fed/py.typed", "asr_fed/data_prep/common_voice.py", "asr_fed/hparams/data/table.yaml"} <= wheel


def test_the_former_name_of_data_preparation_works_in_a_checkout() -> None:
    former = "data_prep"
    command = [sys.executable, "-m", f"{former}.table", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m asr_fed.data_prep.table"), done.stderr
