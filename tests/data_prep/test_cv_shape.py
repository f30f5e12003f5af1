"""The corpus with Common Voice's shape: how its speakers differ, and that it is the same on any machine."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_fed.data.manifest import Utterance, read_manifest
from asr_fed.data_prep import cv_shape
from asr_fed.data_prep.cv_shape_speakers import Handset, in_room, through
from asr_fed.data_prep.synthetic_speakers import SAMPLE_RATE
from asr_fed.system.errors import UserError

SMALL = {"speakers": 6, "dev_speakers": 1, "test_speakers": 2, "seed": 3}
PLAIN = Handset(reverberation=0.0, clipping_db=0.0, codec="")


@pytest.fixture(scope="module", autouse=True)
def few_blocks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv_shape, "BLOCKS", 2)
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    cv_shape.prepare(str(root), str(root / "manifest.csv"), misreading=0.5, **SMALL)  # type: ignore[arg-type]
    return root


def samples(utterances: list[Utterance]) -> list[bytes]:
    return [soundfile.read(utterance.wav, dtype="int16")[0].tobytes() for utterance in utterances]


def speech() -> np.ndarray:
    """A second of a falling tone, int16."""
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return (9000 * np.sin(2 * np.pi * (900 - 300 * times) * times) * np.exp(-3 * times)).astype(np.int16)


def test_the_clips_of_most_speakers_are_few_and_of_few_are_many() -> None:
    voices = cv_shape.draw_voices({"train": 4117, "dev": 20, "test": 200}, misreading=0.02, seed=1)
    clips = np.array([len(voice.said) for voice in voices if voice.speaker.split == "train"])
    most = np.sort(clips)[-117:]
    assert np.median(clips) <= 3 and (clips < 10).mean() > 0.9
    assert clips.max() > 100 and 0.15 < most.sum() / clips.sum() < 0.4
    snr = np.array([voice.speaker.snr_db for voice in voices])
    assert 0 <= snr.min() < 1 and 34 < snr.max() <= 35
    assert {voice.handset.codec for voice in voices} == {"", "telephone", "opus"}


def test_no_sentence_is_said_twice() -> None:
    voices = cv_shape.draw_voices({"train": 300, "dev": 20, "test": 50}, misreading=0.0, seed=1)
    counts = Counter(text for voice in voices for text in voice.said)
    assert max(counts.values()) == 1


def test_wrong_transcripts_change_no_speech_and_no_evaluation() -> None:
    right = cv_shape.draw_voices({"train": 300, "test": 50}, misreading=0.0, seed=1)
    wrong = cv_shape.draw_voices({"train": 300, "test": 50}, misreading=0.3, seed=1)
    assert [voice.said for voice in right] == [voice.said for voice in wrong]
    assert [voice.speaker for voice in right] == [voice.speaker for voice in wrong]
    assert all(voice.said == voice.written for voice in right)
    changed = [voice for voice in wrong if voice.said != voice.written]
    assert {voice.speaker.split for voice in changed} == {"train"}
    assert 0.2 < np.mean([voice.misreads for voice in wrong if voice.speaker.split == "train"]) < 0.4
    clips = sum(len(voice.said) for voice in wrong if voice.misreads)
    differ = sum(said != text for voice in changed for said, text in zip(voice.said, voice.written, strict=True))
    assert 0.3 < differ / clips < 0.7


def test_what_is_written_is_a_corpus(corpus: Path) -> None:
    utterances = read_manifest(corpus / "manifest.csv")
    assert {utterance.split for utterance in utterances} == {"train", "dev", "test"}
    assert len({utterance.speaker for utterance in utterances}) == 9
    for utterance in utterances:
        audio, rate = soundfile.read(utterance.wav)
        assert rate == SAMPLE_RATE and len(audio) / rate == pytest.approx(utterance.duration, abs=1e-3)
        assert audio.std() > 1e-3
    (table,) = corpus.glob("*/speakers.csv")
    with table.open(encoding="utf-8") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {utterance.speaker for utterance in utterances}


def test_as_many_cores_as_there_are_make_the_same_samples(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv_shape, "available_cores", lambda: 1)
    again = cv_shape.prepare(str(tmp_path), str(tmp_path / "manifest.csv"), misreading=0.5, **SMALL)  # type: ignore[arg-type]
    first = read_manifest(corpus / "manifest.csv")
    assert [utterance.text for utterance in again] == [utterance.text for utterance in first]
    assert samples(again) == samples(first)


def test_a_room_rings_on() -> None:
    dry = speech()
    dry[SAMPLE_RATE // 4 :] = 0
    wet = in_room(dry, SAMPLE_RATE, 0.5, np.random.default_rng(0))
    assert len(wet) == len(dry) and np.abs(wet).max() == pytest.approx(np.abs(dry).max(), rel=0.01)
    soon, later = (wet[round(start * SAMPLE_RATE) :][:1600].astype(float).std() for start in (0.3, 0.5))
    assert soon > 2 * later > 0
    assert np.array_equal(in_room(dry, SAMPLE_RATE, 0.0, np.random.default_rng(0)), dry)


def test_a_peak_above_full_scale_is_cut_off() -> None:
    clipped = through(speech(), Handset(0.0, 12.0, ""))
    assert np.mean(np.abs(clipped.astype(int)) >= 32767) > 0.05


@pytest.mark.parametrize("codec", ["telephone", "opus"])
def test_a_codec_keeps_the_length_and_changes_the_sound(codec: str) -> None:
    heard = through(speech(), Handset(0.0, 0.0, codec))
    assert len(heard) == len(speech()) and heard.dtype == np.int16
    assert not np.array_equal(heard, speech())
    assert np.corrcoef(heard, speech())[0, 1] > 0.9
    assert np.array_equal(through(speech(), PLAIN), speech())


@pytest.mark.parametrize("wrong", [{"speakers": 0}, {"test_speakers": 0}, {"misreading": 1.5}, {"seed": -1}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        cv_shape.prepare(str(tmp_path), str(tmp_path / "m.csv"), **(SMALL | wrong))  # type: ignore[arg-type]
