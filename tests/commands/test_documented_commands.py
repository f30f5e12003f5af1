"""Every train_fed.py command of README, docs and recipes is one that would start, those too that nobody has run."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from asr_fed.commands.measure import composed
from asr_fed.commands.overrides import hydra_words
from asr_fed.config.schema import Config, EncoderKind, FeatureKind, Tune

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md")), *sorted(PROJECT.glob("recipes/*/README.md"))]
CORPORA = {"CV": "corpus", "LS": "corpus", "AN4": "corpus"}  # variables of the reader's shell
OWN = ("mine.yaml", "MINE.yaml", "hparams/mine.yaml")  # the reader's file: here the one of docs/own_corpus.md
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"train_fed\.py (\S+\.yaml\b.*)")


def commands(page: Path) -> list[list[str]]:
    """The words behind train_fed.py, of blocks and in the text, with the page's shell variables filled in."""
    text = page.read_text(encoding="utf-8")
    values, found = dict(CORPORA), []
    blocks = [code for language, code in BLOCK.findall(text) if not language]
    in_text = [each.replace("\n", " ") for each in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    for line in [*in_text, *"".join(blocks).replace("\\\n", " ").splitlines()]:
        if assigned := re.fullmatch(r'(?:export )?(\w+)=(?:"(.*?)"|(\S*))(?:  #.*)?', line):
            values[assigned[1]] = filled(assigned[2] or assigned[3], values)
        elif "train_fed.py " in line and (command := COMMAND.search(filled(line, values))):
            found.append(shlex.split(command[1], comments=True))
    return found


def filled(text: str, values: dict[str, str]) -> str:
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    assert "$" not in text, text
    return text


def every_job(words: list[str]) -> list[list[str]]:
    """A sweep's jobs, each choice of a list beside the others' first. Of other commands their one."""
    _, overrides = hydra_words(
        ["--multirun", *(word for word in words if word.startswith("~") or "=" in word.removeprefix("[key="))]
    )
    parsed = [
        (each.get_key_element(), list(each.sweep_string_iterator()) if each.is_sweep_override() else None, text)
        for each, text in zip(OverridesParser.create().parse_overrides(overrides), overrides, strict=True)
    ]
    first = [text if values is None else f"{key}={values[0]}" for key, values, text in parsed]
    others = [
        [*first[:place], f"{key}={value}", *first[place + 1 :]]
        for place, (key, values, _) in enumerate(parsed)
        for value in (values or [])[1:]
    ]
    return [first, *others]


def made(page: Path) -> list[Config]:
    return [
        composed("recipes/own_corpus/mine.yaml" if experiment in OWN else experiment, job)
        for experiment, *words in commands(page)
        for job in every_job(words)
    ]


WITH_COMMANDS = {str(page.relative_to(PROJECT)): page for page in PAGES if commands(page)}


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_of_a_page_is_one_that_would_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert made(WITH_COMMANDS[name])


@pytest.mark.parametrize("path", sorted(PROJECT.glob("hparams/*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_takes_each_group_of_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    groups = sorted(folder.name for folder in PROJECT.glob("hparams/*/") if folder.name not in ("data", "client"))
    for group in groups:
        names = {choice.stem for choice in PROJECT.glob(f"hparams/{group}/*.yaml")}
        chosen = "none" if "none" in names else min(names - {"deployment"})
        composed(str(path), ["data.root=corpus", f"{group}={chosen}"])


def test_an_operators_commands_are_among_them() -> None:
    assert {"recipes/deployment/README.md", "docs/deployment.md", "docs/three_machines.md"} <= WITH_COMMANDS.keys()


def test_the_page_of_pretrained_encoders_has_full_little_and_common_voice() -> None:
    found = made(PROJECT / "docs" / "pretrained_encoders.md")
    assert all(each.model.encoder is EncoderKind.pretrained and each.model.folder == "encoder" for each in found)
    assert {each.features.kind for each in found} == {FeatureKind.waveform}
    assert {each.federation.tune for each in found} == {Tune.full, Tune.lora, Tune.adapters}
    assert {each.data.name for each in found} == {"an4", "cv_fr"}
