"""The command, its exit status and what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from asr_fed.commands.transcribe import main
from asr_fed.config.schema import Config, Decoder
from asr_fed.model.recogniser import Recogniser, save_recogniser
from asr_fed.transcribe.transcript import transcribe
from tests.tiny import RATE, typed_config
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(recogniser: Recogniser, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "federated.pt"
    save_recogniser(recogniser, path)
    return str(path)


def test_one_recording_is_its_text(
    model: str, recogniser: Recogniser, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = recordings / "one.wav"
    assert main([model, str(one)]) == 0
    assert capsys.readouterr() == (transcribe(recogniser, one).text + "\n", "")


def test_options_may_stand_between_model_and_recordings(
    model: str, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model, "--json", str(recordings / "one.wav"), "--window", "5", str(recordings / "deep")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_several_are_a_line_each_with_its_path(
    model: str, recogniser: Recogniser, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model, str(recordings)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    paths = [recordings / "deep" / "three.mp3", recordings / "deep" / "two.FLAC", recordings / "one.wav"]
    assert lines == [[str(path), transcribe(recogniser, path).text] for path in paths]


def test_options_reach_the_transcript(
    model: str, recordings: Path, spoken: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(recordings / "one.wav", spoken, RATE)
    assert main([model, str(recordings / "one.wav"), "--json", "--window", "1.2", "--decoder", "attention_greedy"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["path"] == str(recordings / "one.wav")
    assert record["decoder"] == "attention_greedy" and record["window"] == 1.2
    lengths = [window["end"] - window["start"] for window in record["windows"]]
    assert (
        len(lengths) == 2 and max(lengths) <= 1.2 and record["duration"] == pytest.approx(len(spoken) / RATE, abs=1e-3)
    )


def test_the_search_is_that_of_the_run(
    recogniser: Recogniser, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, one = tmp_path / "run", recordings / "one.wav"
    checkpoint = run_dir / "checkpoints" / "federated.pt"
    save_recogniser(recogniser, checkpoint)
    config: Config = typed_config({}, "evaluation.beam_size=2", "evaluation.beam_ctc_weight=1")
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
    expected = transcribe(recogniser, one, decoder=Decoder.beam, config=config.evaluation).text
    assert expected != transcribe(recogniser, one, decoder=Decoder.beam).text
    for model in (run_dir, checkpoint):
        assert main([str(model), str(one), "--decoder", "beam", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["text"] == expected
        assert (record["beam_size"], record["beam_ctc_weight"]) == (2, 1)


def test_an_unreadable_recording_is_named_and_the_others_go_on(
    model: str, recordings: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (recordings / "a bad one.wav").write_bytes(b"no audio" * 100)
    output = tmp_path / "out.jsonl"
    assert main([model, str(recordings), "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert "a bad one.wav cannot be decoded" in captured.err and "1 of 4 recordings" in captured.err
    assert captured.out == "" and len(output.read_text().splitlines()) == 3
    (recordings / "a bad one.wav").write_bytes((recordings / "one.wav").read_bytes())
    assert main([model, str(recordings), "--output", str(output)]) == 0
    assert "3 of 4 recordings were done before" in capsys.readouterr().err
    assert len(output.read_text().splitlines()) == 4


def test_a_flac_of_unknown_length_has_the_text_of_its_twin(
    model: str, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = recordings / "deep" / "two.FLAC"
    assert main([model, str(two)]) == 0
    content = two.read_bytes()
    two.write_bytes(content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:])  # 0 samples: unknown
    assert main([model, str(two)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second != ""


def test_half_a_recording_has_no_text(model: str, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = recordings / "one.wav"
    one.write_bytes(one.read_bytes()[:-20_000])
    assert main([model, str(one)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "one.wav breaks off" in captured.err


def test_what_the_user_has_to_correct_is_status_2(
    model: str, tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model]) == 2
    assert "nothing to transcribe" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pt"), str(recordings)]) == 2
    assert "none.pt" in capsys.readouterr().err
    for wrong in (["--window", "0"], ["--window", "nan"], ["--threads", "0"], ["--decoder", "oracle"]):
        with pytest.raises(SystemExit) as stopped:
            main([model, str(recordings), *wrong])
        assert stopped.value.code == 2


def test_a_killed_job_is_completed(model: str, recordings: Path, tmp_path: Path) -> None:
    endless = recordings / "zzz.wav"
    os.mkfifo(endless)  # a recording that never begins
    output = tmp_path / "out.jsonl"
    names = [str(recordings / "one.wav"), str(recordings / "deep"), str(endless), "--output", str(output)]
    process = subprocess.Popen([sys.executable, "-m", "asr_fed.transcribe", model, *names], cwd=ROOT)
    wait_until(lambda: output.is_file() and output.read_bytes().count(b"\n") == 3)
    process.kill()
    process.wait()
    before = output.read_bytes()
    assert before.count(b"\n") == 3
    endless.unlink()
    soundfile.write(endless, [0.1] * RATE, RATE)
    assert main([model, *names]) == 0
    after = output.read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 4


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; sys.argv[1:] = ['--help']\ntry: main()\nfinally: print('torch' in sys.modules)"
    code = f"from asr_fed.commands.transcribe import main; {code}"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--window" in process.stdout and process.stdout.endswith("False\n")
