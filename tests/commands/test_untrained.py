"""A model is never decoded, without a word, by a part of it that was not trained."""

from pathlib import Path

import pytest
import soundfile

from asr_fed.commands import evaluate, export, personalise, transcribe
from asr_fed.config.schema import LossConfig
from asr_fed.data.manifest import write_manifest
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.system.errors import UserError
from tests.tiny import Corpus, settings, tiny_recogniser, typed_config


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[float | None, Path]:
    """Lone ones, by the CTC weight of the loss that trained them; None as 0.1.0 wrote them."""
    made: dict[float | None, Path] = {None: tmp_path / "old.pt"}
    save_recogniser(tiny_recogniser(), made[None])
    for weight in (0.0, 1.0):
        made[weight] = tmp_path / f"{weight:g}.pt"
        save_recogniser(tiny_recogniser().trained_by(LossConfig(ctc_weight=weight)), made[weight])
        assert load_recogniser(made[weight]).ctc_weight == weight
    return made


def test_a_checkpoint_says_what_it_can_decode_with(
    experiment: Experiment, checkpoints: dict[float | None, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterance = experiment.partition.test[0]
    write_manifest(tmp_path / "manifest.csv", [utterance])
    manifest = ["--manifest", str(tmp_path / "manifest.csv")]
    assert soundfile.info(utterance.wav).frames

    def refused(main, model: float, *arguments: str) -> bool:
        status = main([str(checkpoints[model]), *arguments])
        told = capsys.readouterr().err
        assert status in (0, 2) and (status == 2) == ("does not train" in told), told
        return status == 2

    out = [str(tmp_path / "out")]
    for main, arguments in ((evaluate.main, manifest), (transcribe.main, [utterance.wav]), (export.main, out)):
        assert refused(main, 0.0, *arguments), "the default is CTC"
        assert refused(main, 1.0, *arguments, "--decoder", "beam")
        assert refused(main, 1.0, *arguments, "--decoder", "attention_greedy")
    assert refused(personalise.main, 1.0, *manifest, "--decoder", "beam")
    assert not refused(transcribe.main, 0.0, utterance.wav, "--decoder", "attention_greedy")
    assert not refused(transcribe.main, 1.0, utterance.wav)
    assert transcribe.main([str(checkpoints[None]), utterance.wav, "--decoder", "beam"]) == 0


def test_a_warm_start_without_what_the_run_decodes_with_is_refused(
    corpus: Corpus, prepared: Path, checkpoints: dict[float | None, Path], tmp_path: Path
) -> None:
    shape = tiny_recogniser().model_config.rnn_layers
    changes = (f"warm_start.checkpoint={checkpoints[1.0]}", f"model.rnn_layers={shape}")
    config = typed_config(settings(corpus, prepared, tmp_path / "run"), *changes, "evaluation.test_decoder=beam")
    with pytest.raises(UserError, match=r"warm_start\.checkpoint=.*test_decoder=beam .* attention decoder"):
        prepare_experiment(config)
