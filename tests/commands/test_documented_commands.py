"""The commands of docs/pretrained_encoders.md compose as they stand there, those too that nobody has run."""

import shlex
from pathlib import Path

import pytest

from asr_fed.commands.measure import composed
from asr_fed.config.schema import EncoderKind, FeatureKind, Tune

PAGE = Path(__file__).parents[2] / "docs" / "pretrained_encoders.md"
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
