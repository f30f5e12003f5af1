"""Units for systemd and files for containers: what they promise, and that the commands in them are ours."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_fed.commands.deployment import main
from asr_fed.system.errors import PartLost, UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "deployment"
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
EXPOSURE = 20  # in tenths, of systemd's own measure from 0 to 10; without any protection a service has 9.6
ARTICLE = re.compile(r"^([A-Za-z]+)=(.*)$")


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each key, of all sections: no key of these units stands in two."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line.startswith(("#", "[")) or not line:
            continue
        key, value = ARTICLE.match(line).groups()  # type: ignore[union-attr]
        found.setdefault(key, []).append(value)
    return found


def test_there_is_a_unit_for_the_server_and_one_for_a_silo() -> None:
    assert [unit.stem for unit in UNITS] == ["asr-fed-node", "asr-fed-superlink"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_has_a_user_limits_and_speech_that_it_cannot_change(unit: Path) -> None:
    found = settings(unit)
    assert found["User"] == ["asr-fed"] and found["NoNewPrivileges"] == ["yes"] and found["UMask"] == ["0077"]
    assert found["MemoryMax"] and found["TasksMax"] and found["CapabilityBoundingSet"] == [""]
    assert found["ProtectSystem"] == ["strict"] and "ReadWritePaths" not in found
    assert found["ReadOnlyPaths"] == ["/srv/speech"] and found["StateDirectory"] == ["asr-fed"]
    assert found["IPAddressDeny"] == ["any"]
    if unit.stem == "asr-fed-node":
        assert found["IPAddressAllow"][0] == "localhost" and len(found["IPAddressAllow"]) == 2
        assert "/" not in found["IPAddressAllow"][1], "one host"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_is_started_again_but_for_what_its_owner_has_to_put_right(unit: Path) -> None:
    found = settings(unit)
    assert found["Restart"] == ["on-failure"] and found["RestartPreventExitStatus"] == [str(UserError.status)]
    assert str(PartLost.status) not in found["SuccessExitStatus"] and PartLost.status != UserError.status


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    here = tmp_path / unit.name  # the interpreter of the unit is not there
    here.write_text(unit.read_text().replace("/opt/asr-fed/.venv/bin/python", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True)
    assert verified.returncode == 0 and unit.stem not in verified.stderr, verified.stderr
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", here]
    judged = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze judges no file")
    assert judged.returncode == 0, judged.stdout[-200:] + judged.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_starts_a_command_of_ours(unit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [command] = settings(unit)["ExecStart"]
    interpreter, *module, name, place = command.split()[:5]
    assert interpreter == "/opt/asr-fed/.venv/bin/python" and module == ["-m", "asr_fed.deployment"]
    refused(command.split()[3:], capsys)
    assert unit.stem == f"asr-fed-{name}" and place.startswith("/")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command understands its arguments, and says that the files are not there."""
    assert not Path("/etc/asr-fed").exists()
    assert main(arguments) == 2
    assert "/etc/asr-fed/" in capsys.readouterr().err


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (FOLDER / "container" / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_container_has_a_user_of_its_own_and_packages_by_their_hash(capsys: pytest.CaptureFixture[str]) -> None:
    found = instructions()
    words = [word for word, _ in found]
    known = {"FROM", "COPY", "RUN", "USER", "WORKDIR", "VOLUME", "ENV", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert set(words) == known
    [(_, image)] = [each for each in found if each[0] == "FROM"]
    assert re.fullmatch(r"python:3\.1[12]-[\w-]+", image)
    [(_, user)] = [each for each in found if each[0] == "USER"]
    assert int(user) > 0 and words.index("USER") > max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    for word, rest in found:
        if word == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
        if word == "RUN":
            for install in re.findall(r"pip install[^&]*", rest):
                assert "--require-hashes" in install or ("--no-deps" in install and "/opt/asr-fed" in install)
    called = dict(found)
    assert json.loads(called["ENTRYPOINT"]) == ["/opt/venv/bin/python", "-m", "asr_fed.deployment"]
    refused(json.loads(called["CMD"]), capsys)


def test_what_is_copied_into_the_container_is_not_kept_from_it() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]}
    assert copied == allowed


def test_a_container_reads_speech_and_reaches_one_host() -> None:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "container" / "compose.yaml").read_text())
    node, way_out = content["services"]["node"], content["services"]["way_out"]
    for service in (node, way_out):
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]
        assert service["security_opt"] == ["no-new-privileges:true"] and not service["user"].startswith("0")
    assert all(volume.endswith((":ro", "state:/state")) for volume in node["volumes"])
    assert node["networks"] == ["inside"] and content["networks"]["inside"]["internal"]
    assert (FOLDER / "container" / node["build"]["context"]).resolve() == ROOT
    assert (ROOT / node["build"]["dockerfile"]).is_file()
    assert re.fullmatch(r"TCP-LISTEN:8443,fork,reuseaddr TCP:\$\{ASR_SERVER:\?[^}]*\}:8443", way_out["command"])
