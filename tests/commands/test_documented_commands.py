"""Commands of the pages compose as they stand there, those too that nobody has run."""

import re
import shlex
from pathlib import Path

import pytest

from asr_fed.commands.measure import composed
from asr_fed.config.schema import EncoderKind, EngineKind, FeatureKind, Tune

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pretrained_encoders.md"
COMMANDS = [
    shlex.split(line)[2:]
    for block in PAGE.read_text(encoding="utf-8").split("```")[1::2]
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("python train_fed.py")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_a_run(words: list[str]) -> None:
    config = composed(words[0], words[1:])
    assert config.model.encoder is EncoderKind.pretrained and config.model.folder == "encoder"
    assert config.features.kind is FeatureKind.waveform


def test_the_page_has_full_little_and_common_voice() -> None:
    made = [composed(words[0], words[1:]) for words in COMMANDS]
    assert {config.federation.tune for config in made} == {Tune.full, Tune.lora, Tune.adapters}
    assert {config.data.name for config in made} == {"an4", "cv_fr"}


@pytest.mark.parametrize("page", ["recipes/deployment/README.md", "docs/deployment.md", "docs/three_machines.md"])
def test_an_operators_command_is_taken_as_it_stands_there(page: str) -> None:
    """With another experiment in the place of one's own."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"train_fed\.py \S*mine\.yaml +([^`\n]*engine=deployment[^`\n]*)", text, re.IGNORECASE)
    assert commands
    for words in commands:
        config = composed(str(ROOT / "hparams" / "demo_fr.yaml"), shlex.split(words))
        assert config.engine.kind is EngineKind.deployment and config.engine.certificates is not None
