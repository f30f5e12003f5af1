"""Transcripts of whole recordings, with the real reader, features, model and decoders."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.features import build_features
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.model.recogniser import Recogniser
from asr_fed.system.errors import UserError
from asr_fed.transcribe.transcript import transcribe
from tests.tiny import RATE

CONFIG = EvaluationConfig(beam_size=3)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


@pytest.mark.parametrize("decoder", list(Decoder))
@pytest.mark.parametrize("subtract_mean", [False, True])
def test_a_clip_is_transcribed_as_evaluation_decodes_it(
    recogniser: Recogniser, recordings: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder, subtract_mean: bool
) -> None:
    monkeypatch.setattr(recogniser.features, "subtract_mean", subtract_mean)
    paths = [path for path in sorted(recordings.rglob("*")) if path.is_file() and path.suffix != ".txt"]
    clips = [Utterance(path.stem, 2.0, str(path), "speaker", "ba") for path in paths]
    cache = build_features(clips, recogniser.features, recordings / "cache")
    expected = evaluate(recogniser, clips, cache, decoder, CONFIG, torch.device("cpu")).hypotheses
    transcripts = {clip.id: transcribe(recogniser, clip.wav, decoder=decoder, config=CONFIG) for clip in clips}
    assert {name: transcript.text for name, transcript in transcripts.items()} == expected
    assert len(set(expected.values())) > 1 and all(expected.values()), "the test needs texts that tell something"


def test_a_long_recording_is_decoded_stretch_by_stretch(
    recogniser: Recogniser, spoken: np.ndarray, tmp_path: Path
) -> None:
    """Each as it would be alone, its times counted from the beginning of the recording; pauses are not decoded."""
    pauses = [silence(seconds) for seconds in (6, 0.8, 40, 1, 3)]
    parts = [pauses[0], *(part for pause in pauses[1:] for part in (spoken, pause))]
    signal = np.concatenate(parts)
    soundfile.write(tmp_path / "long.wav", signal, RATE)
    told: list[float] = []
    config = EvaluationConfig(max_seconds_per_batch=6.0)  # two windows at once
    long = transcribe(recogniser, tmp_path / "long.wav", window_seconds=3.0, config=config, on_progress=told.append)

    assert long.duration == len(signal) / RATE == pytest.approx(sum(told))
    assert len(long.windows) == 4
    starts = np.cumsum([len(part) for part in parts])[::2][:4] / RATE
    for window, start in zip(long.windows, starts, strict=True):
        assert start - 0.35 < window.start < start + 0.2
        assert abs(window.end - (start + len(spoken) / RATE)) < 0.5
        part = signal[round(window.start * RATE) : round(window.end * RATE)]
        soundfile.write(tmp_path / "part.wav", part, RATE)
        alone = transcribe(recogniser, tmp_path / "part.wav")
        assert alone.text == window.text != ""
        assert [word.start + window.start for word in alone.words] == pytest.approx([w.start for w in window.words])
        assert [word.end + window.start for word in alone.words] == pytest.approx([w.end for w in window.words])
    assert long.text == " ".join(window.text for window in long.windows)
    edges = [edge for word in long.words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= long.duration


@pytest.mark.parametrize("seconds", [2, 90])
def test_digital_silence_is_not_decoded(
    recogniser: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    soundfile.write(tmp_path / "mute.wav", silence(seconds), RATE)
    monkeypatch.setattr(recogniser.model, "encode", lambda batch: pytest.fail("it is decoded"))
    told: list[float] = []
    transcript = transcribe(recogniser, tmp_path / "mute.wav", on_progress=told.append)
    assert (transcript.text, transcript.windows, transcript.duration) == ("", (), seconds)
    assert sum(told) == pytest.approx(seconds)


def test_a_hypothesis_longer_than_ctc_allows_has_no_times(
    recogniser: Recogniser, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = recogniser.tokenizer.encode("ba" * 500)
    monkeypatch.setattr("asr_fed.transcribe.transcript.decode_states", lambda *_: [endless])
    transcript = transcribe(recogniser, recordings / "one.wav")
    assert transcript.text == "ba" * 500
    assert [(word.word, word.start, word.end, word.score) for word in transcript.words] == [
        ("ba" * 500, None, None, None)
    ]


@pytest.mark.parametrize("samples", [1, 200])
def test_next_to_nothing(recogniser: Recogniser, tmp_path: Path, samples: int) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(samples, 0.1), RATE)
    transcript = transcribe(recogniser, tmp_path / "short.wav")
    assert transcript.duration == samples / RATE
    assert len(transcript.windows) == 1


def test_what_is_no_recording_is_named(recogniser: Recogniser, recordings: Path) -> None:
    with pytest.raises(UserError, match=r"notes\.txt"):
        transcribe(recogniser, recordings / "notes.txt")
