"""requirements-deployment.txt: every package that a node or server installs, by version and hash."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKED = ROOT / "requirements-deployment.txt"
ENTRY = re.compile(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def name_of(requirement: str) -> str:
    """As pip compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def locked() -> dict[str, str]:
    return {name_of(name): version for name, version, _ in ENTRY.findall(LOCKED.read_text())}


def test_nothing_is_in_the_file_but_versions_and_hashes() -> None:
    """A line of another kind, such as an option or an address, would decide where packages come from."""
    rest = ENTRY.sub("", LOCKED.read_text())
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert "://" not in LOCKED.read_text()


def test_it_has_the_versions_that_are_tested() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {name_of(name): version for name, version in pinned.items()}
    assert {name: version for name, version in locked().items() if tested[name] != version} == {}


def test_it_has_all_that_a_deployment_and_its_building_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["deployment"]
    wanted += project["build-system"]["requires"]
    assert {name_of(each) for each in wanted} <= locked().keys()
