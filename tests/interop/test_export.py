"""Exported folders: SpeechBrain's own interface, alone, writes what our decoder writes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from omegaconf import OmegaConf
from speechbrain.inference.ASR import EncoderDecoderASR
from torchaudio.functional import resample

from asr_fed.commands.export import main
from asr_fed.config.schema import Config, Decoder, EvaluationConfig
from asr_fed.data.features import build_features, read_audio
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.interop.speechbrain.writer import export_recogniser
from asr_fed.model.recogniser import Recogniser, save_recogniser
from asr_fed.system.errors import UserError
from tests.tiny import RATE, TEXTS, speak, tiny_recogniser, typed_config

JOINT = EvaluationConfig(beam_size=4, beam_ctc_weight=0.3)
AS_PUBLISHED = EvaluationConfig(beam_size=4, beam_ctc_weight=0.0, beam_temperature=1.5, beam_max_attention_shift=9)
ATTENTION_ONLY = EvaluationConfig(beam_size=3, beam_ctc_weight=0.0, beam_eos_threshold=None)


def talkative(subtract_mean: bool = False, **changes: object) -> Recogniser:
    """Random weights, drawn larger than usual so that hypotheses are long and differ."""
    built = tiny_recogniser(**changes)
    built = dataclasses.replace(built, features=dataclasses.replace(built.features, subtract_mean=subtract_mean))
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
        built.model.ctc_head.w.bias[0] = -3.0
        built.model.decoder_head.w.bias[1:3] = -1.0  # no early end
        built.model.feature_mean.fill_(0.0 if subtract_mean else -20.0)
        built.model.feature_deviation.fill_(15)
    return built


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """At several rates; the last in stereo, the one before with silence around the words."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(3)
    utterances = []
    for number, rate in enumerate((RATE, 8000, 22050, 48000, 44100)):
        words = " ".join(TEXTS[number : number + 1 + number % 3]).split()
        signal = resample(torch.from_numpy(speak(words, 1.0, rng)), RATE, rate).numpy()
        signal = np.pad(signal, rate if number == 3 else 0)
        path = folder / f"{number}.wav"
        soundfile.write(path, np.stack([signal, 0.5 * signal], axis=1) if number == 4 else signal, rate)
        utterances.append(Utterance(f"u{number}", len(signal) / rate, str(path), "s", " ".join(words)))
    return utterances


def our_texts(
    recogniser: Recogniser, utterances: list[Utterance], decoder: Decoder, evaluation: EvaluationConfig = JOINT
) -> list[str]:
    """By the way that every word error rate takes."""
    features = build_features(utterances, recogniser.features, Path(utterances[0].wav).parent / "features")
    heard = evaluate(recogniser, utterances, features, decoder, evaluation, torch.device("cpu")).hypotheses
    return [heard[utterance.id] for utterance in utterances]


@pytest.mark.parametrize(
    ("decoder", "evaluation", "subtract_mean", "shape"),
    [
        (Decoder.ctc_greedy, JOINT, True, {"pool_2d": False, "time_pooling": 2}),
        (Decoder.attention_greedy, JOINT, False, {}),
        (Decoder.beam, JOINT, False, {}),
        (Decoder.beam, AS_PUBLISHED, False, {}),
        (Decoder.beam, ATTENTION_ONLY, True, {"cnn_channels": [3, 4, 5], "cnn_kernel": [3, 5]}),
    ],
)
def test_the_text_is_that_of_our_decoder(
    decoder: Decoder,
    evaluation: EvaluationConfig,
    subtract_mean: bool,
    shape: dict[str, object],
    recordings: list[Utterance],
    tmp_path: Path,
) -> None:
    recogniser = talkative(subtract_mean, **shape)
    ours = our_texts(recogniser, recordings, decoder, evaluation)
    assert all(ours) and len(set(ours)) >= 4
    export_recogniser(recogniser, tmp_path / "folder", decoder, evaluation)
    theirs = EncoderDecoderASR.from_hparams(source=str(tmp_path / "folder"), savedir=str(tmp_path / "saved"))
    assert [theirs.transcribe_file(u.wav, savedir=str(tmp_path / "audio")) for u in recordings] == ours
    signals = [read_audio(utterance.wav, RATE) for utterance in recordings]
    longest = max(len(signal) for signal in signals)
    batch = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True, padding_value=0.3)
    texts, _ = theirs.transcribe_batch(batch, torch.tensor([len(signal) / longest for signal in signals]))
    assert texts == ours, "in a batch, with any padding"


def test_it_opens_without_asr_fed_and_beside_another(recordings: list[Utterance], tmp_path: Path) -> None:
    recognisers = {"one": talkative(), "two": talkative(True, cnn_channels=[6, 5], time_pooling=2)}
    for name, recogniser in recognisers.items():
        export_recogniser(recogniser, tmp_path / name)
    program = """
import sys
sys.modules["asr_fed"] = None  # importing it fails
from speechbrain.inference.ASR import EncoderDecoderASR
opened = [EncoderDecoderASR.from_hparams(source=name, savedir=f"{name}_saved") for name in ("one", "two")]
for recogniser in opened:
    for path in sys.argv[1:]:
        print(recogniser.transcribe_file(path))
"""
    completed = subprocess.run(
        [sys.executable, "-c", program, *(utterance.wav for utterance in recordings)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    ours = [our_texts(recogniser, recordings, Decoder.ctc_greedy) for recogniser in recognisers.values()]
    assert completed.stdout.splitlines() == [*ours[0], *ours[1]] and ours[0] != ours[1]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """As one looks that has ended."""
    run_dir = tmp_path / "run"
    save_recogniser(tiny_recogniser(), run_dir / "checkpoints" / "federated.pt")
    config: Config = typed_config({}, "evaluation.test_decoder=beam", "evaluation.beam_size=7")
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
    summary = {"test_wer": 12.345, "test_cer": 4.5, "test_speakers": 10, "decoder": "beam", "mode": "federated"}
    (run_dir / "summary.json").write_text(json.dumps(summary | {"rounds": 3, "clients": 5}))
    return run_dir


def test_the_command_takes_decoder_and_word_error_rate_from_the_run(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert main([str(run_dir), str(folder)]) == 0
    published = {"hyperparams.yaml", "asr.ckpt", "normalizer.ckpt", "tokenizer.ckpt"}
    assert {path.name for path in folder.iterdir()} == published | {"README.md"}
    card, hyperparams = (folder / "README.md").read_text(), (folder / "hyperparams.yaml").read_text()
    assert "12.35 % WER" in card and "4.50 % CER" in card and "from_hparams" in card
    assert "S2SRNNBeamSearcher" in hyperparams and "beam_size: 7" in hyperparams
    assert main([str(run_dir), str(tmp_path / "greedy"), "--decoder", "ctc_greedy"]) == 0
    assert "beam_size:" not in (tmp_path / "greedy" / "hyperparams.yaml").read_text()
    own = run_dir / "checkpoints" / "federated.pt"
    assert main([str(own), str(tmp_path / "own")]) == 0
    assert "beam_size: 7" in (tmp_path / "own" / "hyperparams.yaml").read_text()
    alone = shutil.copy(own, tmp_path / "alone.pt")
    assert main([str(alone), str(tmp_path / "plain")]) == 0
    assert "CtcGreedy\n" in (tmp_path / "plain" / "hyperparams.yaml").read_text()
    assert "WER" not in (tmp_path / "plain" / "README.md").read_text()


def test_a_decoder_that_was_not_trained_is_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("ctc_weight: 0.3", "ctc_weight: 1.0"))
    assert main([str(run_dir), str(tmp_path / "folder"), "--decoder", "beam"]) == 2
    assert "loss.ctc_weight of 1 does not train" in capsys.readouterr().err and not (tmp_path / "folder").exists()


def test_what_stands_in_a_setting_is_no_yaml(tmp_path: Path) -> None:
    """Were it, it would be executed by whoever opens the folder."""
    code = "16000\nrun: !apply:os.system ['touch x']\n#"
    built = talkative()
    features = dataclasses.replace(built.features, sample_rate=code, win_ms=code)  # type: ignore[arg-type]
    model = dataclasses.replace(built.model_config, attention_dim=code, cnn_kernel=[code])  # type: ignore[arg-type]
    made = dataclasses.replace(built, features=features, model_config=model)
    export_recogniser(made, tmp_path / "folder")
    text = (tmp_path / "folder" / "hyperparams.yaml").read_text()
    applied = {token.value[1] for token in yaml.scan(text) if isinstance(token, yaml.TagToken)}
    assert not any("os.system" in suffix for suffix in applied)
    settings = {key.value: value.value for key, value in yaml.compose(text).value}
    assert settings["sample_rate"] == settings["win_length"] == code


def test_a_folder_in_use_is_left_as_it_is(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter.txt").write_text("dear")
    assert main([str(run_dir), str(tmp_path / "used")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match=r"letter\.txt is there"):
        export_recogniser(tiny_recogniser(), tmp_path / "used" / "letter.txt")
    assert main([str(tmp_path / "nothing"), str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
