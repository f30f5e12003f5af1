"""NODE.yaml, right and wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_fed.config.trust import TRUST
from asr_fed.engines.deployment.settings import Clients, read_settings
from asr_fed.system.errors import UserError

GOOD = {"name": "clinic-1", "superlink": "127.0.0.1:8443", "folder": "state", "manifest": "own/manifest.csv"}
KEYS = {"certificate": "ca.crt", "key": "node.key"}


def write(folder: Path, /, **changes: Any) -> Path:
    """A NODE.yaml with changes, None for a key to leave out; the files of GOOD and KEYS are there."""
    for name in ("own/manifest.csv", "ca.crt", "node.key", "shared/partition.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch(0o600)
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    (folder / "node.yaml").write_text(yaml.safe_dump(content))
    return folder / "node.yaml"


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **KEYS)
    monkeypatch.chdir(tmp_path.parent)
    settings = read_settings(Path(tmp_path.name) / "node.yaml")
    expected = {"folder": "state", "manifest": "own/manifest.csv", "certificate": "ca.crt", "key": "node.key"}
    assert {key: getattr(settings, key) for key in expected} == {k: str(tmp_path / v) for k, v in expected.items()}
    assert settings.clients is Clients.silo and settings.partition is None and settings.trust == list(TRUST)


def test_paths_that_are_absolute_or_at_home_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = read_settings(write(tmp_path, folder="~/state", manifest=str(tmp_path / "own" / "manifest.csv")))
    assert settings.folder == str(tmp_path / "home" / "state")
    assert settings.manifest == str(tmp_path / "own" / "manifest.csv")


def test_a_virtual_node_has_a_partition(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, manifest=None, partition="shared", workers=3, clients="speaker"))
    assert settings.partition == str(tmp_path / "shared") and settings.workers == 3
    assert settings.clients is Clients.speaker


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"manifst": "x"}, "no key 'manifst'. Did you mean 'manifest'?"),
        ({"superlnk": "x"}, "Did you mean 'superlink'?"),
        ({"partition": "shared"}, "either manifest .* or partition"),
        ({"manifest": None}, "either manifest .* or partition"),
        ({"key": "node.key"}, "certificate and key belong together"),
        ({"certificate": "ca.crt"}, "certificate and key belong together"),
        (KEYS | {"key": "other.key"}, "other.key, and there is no such file"),
        ({"manifest": "other.csv"}, "other.csv, and there is no such file"),
        ({"manifest": None, "partition": "own"}, "no partition.csv in it"),
        ({"superlink": "asr.example.org"}, "should be host:port"),
        ({"name": "a clinic"}, "may hold letters"),
        ({"name": "../up"}, "may hold letters"),
        ({"name": "x" * 81}, "at most 80"),
        ({"workers": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"threads": "many"}, "threads: .*many"),
        ({"clients": "person"}, "clients: .*person"),
        ({"name": None}, "missing mandatory value: name"),
        ({"superlink": None}, "missing mandatory value: superlink"),
        ({"folder": None}, "missing mandatory value: folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=told) as raised:
        read_settings(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "text", ["name: [", "- name", "", "just text", "name: ${nowhere}\nfolder: x\nsuperlink: a:1\n"]
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.yaml").write_text(text)
    with pytest.raises(UserError, match=r"node\.yaml"):
        read_settings(tmp_path / "node.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read_settings(tmp_path / "node.yaml")


def test_a_name_is_composed_whatever_wrote_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_text().replace("clinic-1", "ho\u0302pital")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        assert read_settings(path).name == "hôpital"
    path.write_text(text.replace("ho\u0302pital", "hôpital"), encoding="latin-1")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_settings(path)


@pytest.mark.parametrize("group", ["algorithm", "weighting"])
def test_a_node_trusts_every_choice_that_comes_with_us(group: str) -> None:
    choices = list(Path("hparams", group).glob("*.yaml"))
    assert choices
    for path in choices:
        target = yaml.safe_load(path.read_text())["_target_"]
        assert any(target.startswith(trusted) for trusted in TRUST), f"{path} names {target}"


@pytest.mark.parametrize("superlink", ["asr.example.org:8443", "10.0.0.2:8443", "[fe80::1]:8443", "127.0.0.1.org:8443"])
def test_nothing_goes_to_another_machine_in_plain_text(tmp_path: Path, superlink: str) -> None:
    with pytest.raises(UserError, match="is another machine"):
        read_settings(write(tmp_path, superlink=superlink))
    assert read_settings(write(tmp_path, superlink=superlink, **KEYS)).superlink == superlink


@pytest.mark.parametrize("superlink", ["127.0.0.1:8443", "127.3.2.1:8443", "localhost:8443", "[::1]:8443"])
def test_on_this_machine_plain_text_will_do(tmp_path: Path, superlink: str) -> None:
    assert read_settings(write(tmp_path, superlink=superlink)).certificate is None


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, **KEYS)
    (tmp_path / "node.key").chmod(0o644)
    with pytest.raises(UserError, match="others can read this private key"):
        read_settings(path)
