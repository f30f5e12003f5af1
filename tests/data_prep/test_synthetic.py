"""The synthetic corpus: its grammar, its speakers, and its generation by espeak-ng in fresh processes."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_fed.data.manifest import Utterance, read_manifest
from asr_fed.data_prep import synthetic
from asr_fed.data_prep.espeak import Espeak
from asr_fed.data_prep.synthetic_speakers import SAMPLE_RATE, VARIANTS, Speaker, draw_speakers, record
from asr_fed.data_prep.text import normalise
from asr_fed.system.errors import UserError

SMALL = {
    "speakers": 8,
    "sentences": 14,
    "dev_speakers": 1,
    "dev_sentences": 3,
    "test_speakers": 2,
    "test_sentences": 5,
    "seed": 3,
}
COMMAND = [sys.executable, "-m", "asr_fed.data_prep.synthetic"]
FLAGS = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def speaker(**changes: object) -> Speaker:
    plain = {
        "id": "s",
        "split": "train",
        "gender": "male",
        "accent": "fr",
        "variant": "m3",
        "pitch": 50,
        "pitch_range": 50,
        "rate": 160,
        "tract": 1.0,
        "high_pass": 50,
        "low_pass": 7600,
        "tilt": 0.0,
        "peak_db": -6.0,
        "noise_pole": 0.0,
        "snr_db": 30.0,
    }
    return Speaker(**(plain | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """The small corpus, made by the command, with memory that the C library must not read uncleared."""
    root = tmp_path_factory.mktemp("corpus")
    manifest = root / "manifest.csv"
    environment = os.environ | {"MALLOC_PERTURB_": "85"}
    subprocess.run([*COMMAND, str(root), str(manifest), *FLAGS], check=True, env=environment)
    return read_manifest(manifest)


def samples(utterances: list[Utterance]) -> list[bytes]:
    return [soundfile.read(utterance.wav, dtype="int16")[0].tobytes() for utterance in utterances]


def spectrum(utterance: Utterance) -> np.ndarray:
    """Mean power in 20 bands of 400 Hz, dB."""
    audio, _ = soundfile.read(utterance.wav)
    power = np.abs(np.fft.rfft(audio, n=1 << 17)) ** 2
    return 10 * np.log10(np.array([band.mean() for band in np.array_split(power, 20)]) + 1e-12)


def folder_of(root: Path) -> Path:
    """The one finished corpus under `root`."""
    (folder,) = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return folder


def test_the_grammar_is_large_in_sentences_and_small_in_words() -> None:
    sentences = synthetic.sentences()
    words = {word for sentence in sentences for word in sentence.split()}
    assert len(sentences) == len(set(sentences)) > 10_000
    assert 150 <= len(words) <= 200
    lengths = [len(sentence.split()) for sentence in sentences]
    assert np.mean([3 <= length <= 7 for length in lengths]) > 0.95
    assert "éteins l'écran du salon demain" in sentences


def test_sentences_are_spelt_as_the_french_rules_want_them() -> None:
    assert all(normalise(sentence, "fr") == sentence for sentence in synthetic.sentences())


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_no_sentence_is_in_two_splits_and_none_is_lost(seed: int) -> None:
    pools = synthetic.sentence_pools(seed)
    assert sorted(itertools.chain(*pools.values())) == synthetic.sentences()
    assert min(map(len, pools.values())) > 200


@given(st.integers(1, 80), st.integers(0, 10), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=30)
def test_no_two_speakers_share_variant_and_pitch(train: int, dev: int, test: int, seed: int) -> None:
    speakers = draw_speakers({"train": train, "dev": dev, "test": test}, seed)
    assert len({(one.variant, one.pitch) for one in speakers}) == len(speakers) == train + dev + test
    assert len({one.id for one in speakers}) == len(speakers)
    assert all(one.variant in VARIANTS[one.gender] for one in speakers)


def test_training_speakers_do_not_depend_on_how_many_others_there_are() -> None:
    few, many = (draw_speakers({"train": 30, "dev": 0, "test": test}, 1)[:30] for test in (1, 9))
    assert few == many
    assert len({one.variant for one in few}) == 25  # every woman's voice, and a man's voice once each


def test_more_speakers_than_there_are_voices_are_refused() -> None:
    with pytest.raises(UserError, match="too many"):
        draw_speakers({"train": 1000}, 1)


@pytest.mark.parametrize("tract", np.linspace(0.9, 1.1, 41).round(3))
def test_a_tract_moves_every_frequency_and_loses_none(tract: float) -> None:
    rate, tones = 22050, np.array([400, 1500, 3000, 5500])
    time_axis = np.arange(2 * rate) / rate
    speech = sum(4000 * np.sin(2 * np.pi * tone * time_axis) for tone in tones).astype(np.int16)
    heard = record(speech, rate, speaker(tract=tract), np.random.default_rng(0)) / 32768
    power = np.abs(np.fft.rfft(heard, n=8 * SAMPLE_RATE)) ** 2  # 8 bins a Hz
    levels = [10 * np.log10(power[int(8 * 0.99 * tone * tract) : int(8 * 1.01 * tone * tract)].max()) for tone in tones]
    assert max(levels) - min(levels) < 3


def test_the_channel_limits_the_band_and_sets_the_peak() -> None:
    speech = np.random.default_rng(1).normal(0, 3000, 44100).astype(np.int16)
    heard = record(
        speech, 22050, speaker(low_pass=3200, high_pass=300, peak_db=-12, snr_db=200), np.random.default_rng(0)
    )
    power = np.abs(np.fft.rfft(heard / 32768)) ** 2
    low, middle, high = (band.mean() for band in (power[20:150], power[4000:8000], power[-5000:]))
    assert middle > 10 * low
    assert middle > 1000 * high
    assert 20 * np.log10(np.abs(heard.astype(float)).max() / 32768) == pytest.approx(-12, abs=0.1)


@pytest.mark.parametrize("snr", [15.0, 25.0, 35.0])
def test_noise_lies_below_the_speech_by_the_stated_ratio(snr: float) -> None:
    speech = np.random.default_rng(1).normal(0, 3000, 44100).astype(np.int16)
    heard = record(speech, 22050, speaker(snr_db=snr, noise_pole=0.5), np.random.default_rng(0)) / 32768
    noise = heard[: SAMPLE_RATE // 10]  # at least so much comes before the speech
    middle = heard[SAMPLE_RATE : SAMPLE_RATE + 8000]
    assert 10 * np.log10((middle**2).mean() / (noise**2).mean()) == pytest.approx(snr, abs=1)


def test_silence_cannot_be_recorded() -> None:
    with pytest.raises(ValueError, match="no speech"):
        record(np.zeros(1000, np.int16), 22050, speaker(), np.random.default_rng(0))


def test_espeak_says_longer_texts_longer_and_refuses_unknown_voices() -> None:
    espeak = Espeak()
    short, long = (espeak.say(text, "fr+f1") for text in ("bonjour", "bonjour à toutes les voisines"))
    assert len(long) > 1.5 * len(short) > 0.4 * espeak.sample_rate
    assert len(espeak.say("bonjour", "fr+f1", rate=100)) > 1.3 * len(short)
    for voice in ("fr+nobody", "xx-nowhere"):
        with pytest.raises(ValueError, match="no voice"):
            espeak.say("bonjour", voice)


def test_every_chosen_voice_is_there() -> None:
    assert set(itertools.chain(*VARIANTS.values())) <= Espeak().variants


def test_without_espeak_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError")
    root = tmp_path / "corpus"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    run = subprocess.run(
        [*COMMAND, str(root), str(root / "m.csv"), *FLAGS], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "pip install 'asr-fed[demo]'" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (root / "m.csv").exists()


def test_the_manifest_describes_the_audio(corpus: list[Utterance]) -> None:
    assert len(corpus) == 8 * 14 + 3 + 2 * 5
    for utterance in corpus:
        info = soundfile.info(utterance.wav)
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        assert utterance.duration == pytest.approx(info.duration, abs=1e-3)
        assert 0.5 < utterance.duration < 4
        assert utterance.locale == "fr"
    with (Path(corpus[0].wav).parents[2] / "speakers.csv").open(encoding="utf-8", newline="") as file:
        stated = {(row["id"], row["split"], row["gender"]) for row in csv.DictReader(file)}
    assert stated == {(utterance.speaker, utterance.split, utterance.gender) for utterance in corpus}
    assert {gender for _, _, gender in stated} == {"female", "male"}
    assert len({utterance.accent for utterance in corpus}) > 1


def test_splits_share_neither_speakers_nor_sentences(corpus: list[Utterance]) -> None:
    for field in ("speaker", "text"):
        values = [{getattr(one, field) for one in corpus if one.split == split} for split in ("train", "dev", "test")]
        assert not values[0] & values[1] and not values[0] & values[2] and not values[1] & values[2]
    assert len({(one.speaker, one.text) for one in corpus}) == len(corpus)


def test_speakers_sound_different(corpus: list[Utterance]) -> None:
    """A speaker's utterances are nearer to each other, in mean spectrum, than to any other speaker's."""
    by_speaker: dict[str, list[np.ndarray]] = {}
    for utterance in corpus:
        if utterance.split == "train":
            by_speaker.setdefault(utterance.speaker, []).append(spectrum(utterance))
    halves = {
        name: (np.mean(spectra[::2], axis=0), np.mean(spectra[1::2], axis=0)) for name, spectra in by_speaker.items()
    }
    for name, (first, second) in halves.items():
        within = np.abs(first - second).mean()
        between = min(np.abs(first - other).mean() for else_, (_, other) in halves.items() if else_ != name)
        assert between > 1.5 * within


def test_the_same_parameters_give_the_same_samples(corpus: list[Utterance], tmp_path: Path) -> None:
    again = synthetic.prepare(str(tmp_path), str(tmp_path / "manifest.csv"), **SMALL)
    assert [one.text for one in again] == [one.text for one in corpus]
    assert samples(again) == samples(corpus)
    assert again == read_manifest(tmp_path / "manifest.csv")


def test_a_finished_corpus_is_used_again(corpus: list[Utterance], tmp_path: Path) -> None:
    root = Path(corpus[0].wav).parents[3]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.flac")}
    other = tmp_path / "elsewhere" / "manifest.csv"
    assert synthetic.prepare(str(root), str(other), **SMALL) == corpus == read_manifest(other)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.flac")} == before


def test_other_parameters_make_another_corpus_beside_the_first(tmp_path: Path) -> None:
    tiny = {"speakers": 1, "sentences": 2, "dev_speakers": 0, "test_speakers": 1, "test_sentences": 1}
    first, second = (
        synthetic.prepare(str(tmp_path), str(tmp_path / "manifest.csv"), **tiny, seed=seed) for seed in (1, 2)
    )
    assert len(first) == len(second) == 3
    assert all(Path(one.wav).is_file() for one in [*first, *second])
    assert not {one.wav for one in first} & {one.wav for one in second}
    assert read_manifest(tmp_path / "manifest.csv") == second


def test_a_killed_generation_is_not_mistaken_for_a_finished_one(corpus: list[Utterance], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    # At the lowest priority, so that we see it begin before it ends, whoever else wants the processor.
    command = ["nice", "-n", "19", *COMMAND, str(tmp_path), str(manifest), *FLAGS]
    victim = subprocess.Popen(command, start_new_session=True)
    while not list(tmp_path.glob(".*.partial/clips/train-001/*")):
        assert victim.poll() is None
        time.sleep(0.002)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not manifest.exists()
    assert not any(path.is_dir() for path in tmp_path.glob("fr-*"))

    assert samples(synthetic.prepare(str(tmp_path), str(manifest), **SMALL)) == samples(corpus)
    assert not list(tmp_path.glob(".*.partial"))
    assert len(list(folder_of(tmp_path).rglob("*.flac"))) == len(corpus)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speakers": 0}, "at least 1"),
        ({"test_speakers": 0}, "at least 1"),
        ({"dev_speakers": -1}, "at least 0"),
        ({"sentences": 50_000}, "the grammar has"),
        ({"speakers": 5000}, "too many"),
    ],
)
def test_impossible_counts_are_refused_before_any_work(
    tmp_path: Path, wrong: dict[str, int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        synthetic.prepare(str(tmp_path / "corpus"), str(tmp_path / "manifest.csv"), **wrong)
    assert not list(tmp_path.iterdir())
    flags = [part for name, value in wrong.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert synthetic.main([str(tmp_path), str(tmp_path / "manifest.csv"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_parameter_without_loading_torch() -> None:
    check = "finally: assert 'torch' not in sys.modules"
    code = f"import sys; from asr_fed.data_prep.synthetic import main\ntry: main(['--help'])\n{check}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(f"--{name.replace('_', '-')}" in run.stdout for name in SMALL)
