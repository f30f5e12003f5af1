"""The feature cache: right values, computed once, safe when builders meet, die, or recordings change."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank

from asr_fed.config.schema import FeatureConfig, FeatureKind
from asr_fed.data import features
from asr_fed.data.features import (
    FeatureCache,
    add_speeds,
    build_features,
    feature_statistics,
    open_features,
    read_audio,
)
from asr_fed.data.manifest import Utterance, write_manifest
from asr_fed.system.errors import UserError
from tests.waiting import PATIENCE, wait_until

CONFIG = FeatureConfig(sample_rate=16000, n_mels=20, n_fft=400, win_ms=25, hop_ms=10)
BUILD = """
    import sys
    from pathlib import Path
    from asr_fed.config.schema import FeatureConfig
    from asr_fed.data.features import build_features
    from asr_fed.data.manifest import read_manifest

    if __name__ == "__main__":
        config = FeatureConfig(sample_rate=16000, n_mels=20, n_fft=400, win_ms=25, hop_ms=10)
        build_features(read_manifest(sys.argv[1]), config, Path(sys.argv[2]), processes=2)
"""


def record(folder: Path, count: int, seconds: float = 0.5, rate: int = 16000) -> list[Utterance]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    utterances = []
    for number in range(count):
        path, length = folder / f"r{number}.wav", seconds + number % 5 / 10
        soundfile.write(path, 0.1 * rng.standard_normal(round(rate * length)), rate)
        utterances.append(Utterance(f"u{number:03}", length, str(path), "s", "text"))
    return utterances


def direct(utterance: Utterance, rate: int = 16000) -> np.ndarray:
    samples, stored = soundfile.read(utterance.wav, dtype="float32")
    assert stored == rate
    compute = Fbank(sample_rate=rate, n_mels=20, n_fft=400, win_length=25, hop_length=10)
    return compute(torch.from_numpy(samples)[None])[0].numpy()


def shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix in (".npy", ".json")}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    return record(tmp_path_factory.mktemp("recordings"), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def cache(recordings: list[Utterance], folder: Path) -> FeatureCache:
    return add_speeds(build_features(recordings, CONFIG, folder), recordings, (1.0, 1.25), CONFIG)


def test_values_are_the_filterbanks(cache: FeatureCache, recordings: list[Utterance]) -> None:
    for utterance in recordings:
        expected = direct(utterance)
        frames = cache[utterance.id, 1.0]
        assert frames.shape == expected.shape == (len(cache[utterance.id, 1.0]), 20)
        np.testing.assert_allclose(frames, expected, rtol=2e-3, atol=2e-2)  # kept as float16
        assert len(frames) == pytest.approx(utterance.duration * 100, abs=2)


def test_a_speed_shortens_the_utterance_and_raises_its_pitch(cache: FeatureCache, recordings: list[Utterance]) -> None:
    for utterance in recordings:
        assert len(cache[utterance.id, 1.25]) == pytest.approx(len(cache[utterance.id, 1.0]) / 1.25, abs=1)
    with pytest.raises(KeyError):
        cache["u000", 0.5]


def test_playing_faster_is_resampling(tmp_path: Path) -> None:
    time_axis = np.arange(16000) / 16000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 400 * time_axis), 16000)
    fast = read_audio(tmp_path / "tone.wav", 16000, speed=1.25).numpy()
    assert len(fast) == pytest.approx(16000 / 1.25, abs=2)
    spectrum = np.abs(np.fft.rfft(fast))
    assert spectrum.argmax() * 16000 / len(fast) == pytest.approx(500, abs=2)


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path: Path) -> None:
    time_axis = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 300 * time_axis)
    soundfile.write(tmp_path / "stereo.flac", np.stack([tone, np.zeros_like(tone)], axis=1), 8000)
    signal_ = read_audio(tmp_path / "stereo.flac", 16000).numpy()
    assert signal_.shape == (16000,)
    middle = np.abs(signal_[2000:-2000]).max()
    assert middle == pytest.approx(0.25, abs=0.01)


def test_digital_silence_is_kept_beside_each_recording(
    cache: FeatureCache, recordings: list[Utterance], tmp_path: Path
) -> None:
    for utterance in recordings[:2]:
        samples, rate = soundfile.read(utterance.wav, dtype="float32")
        soundfile.write(tmp_path / "longer.wav", np.concatenate([samples, np.zeros(rate)]), rate, "FLOAT")
        longer = direct(Utterance("longer", 1.0, str(tmp_path / "longer.wav"), "s", ""))
        np.testing.assert_allclose(cache.silence(utterance.id, 1.0), longer[-1], rtol=2e-3)


def test_a_second_build_computes_nothing(cache: FeatureCache, recordings: list[Utterance], folder: Path) -> None:
    before = shards(folder)
    again = add_speeds(build_features(recordings[::-1], CONFIG, folder), recordings[::-1], (1.25,), CONFIG)
    assert shards(folder) == before
    assert again == cache


def test_each_recording_is_looked_at_once_and_a_list_of_shards_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    stat = os.stat

    def noting(path: Any, **more: Any) -> os.stat_result:
        looked.append(str(path))
        return stat(path, **more)

    monkeypatch.setattr(features, "SHARD_UTTERANCES", 4)
    utterances = record(tmp_path / "recordings", 10, seconds=0.1)
    folder, saved = tmp_path / "features", tmp_path / "features.json"
    add_speeds(build_features(utterances, CONFIG, folder), utterances[3:], (0.9, 1.0, 1.1), CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", noting)
        cache = add_speeds(build_features(utterances, CONFIG, folder), utterances[3:], (0.9, 1.0, 1.1), CONFIG)
    wavs = {utterance.wav for utterance in utterances}
    assert sorted(path for path in looked if path in wavs) == sorted(wavs)
    assert {speed: len(listed) for speed, listed in cache.shards.items()} == {1.0: 3, 0.9: 3, 1.1: 3}
    for utterance in utterances[3:]:
        for speed in (0.9, 1.1):
            frames = cache[utterance.id, speed]
            assert (
                len(frames)
                == cache.frames(utterance.id, speed)
                == pytest.approx(len(cache[utterance.id, 1.0]) / speed, abs=1)
            )
    for utterance_id in ("u000", "a before all", "u0035", "z behind all"):
        with pytest.raises(KeyError):
            cache[utterance_id, 1.1]

    cache.save(saved)
    for utterance in utterances:
        Path(utterance.wav).unlink()
    again = open_features(saved, folder)
    assert again == cache
    np.testing.assert_array_equal(again["u005", 0.9], cache["u005", 0.9])
    (folder / cache.shards[0.9][1][1]).unlink()
    with pytest.raises(UserError, match=r"1 files of features are gone .* resume=true"):
        open_features(saved, folder)
    with pytest.raises(UserError, match=r"no .*other\.json"):
        open_features(tmp_path / "other.json", folder)


def test_a_changed_recording_is_another_one_at_every_speed(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 2)
    folder = tmp_path / "features"
    first = add_speeds(build_features(utterances, CONFIG, folder), utterances, (1.1,), CONFIG)
    frames = first["u000", 1.1].copy()
    samples, rate = soundfile.read(utterances[0].wav)
    soundfile.write(utterances[0].wav, samples[::-1][:-800], rate)
    second = add_speeds(build_features(utterances, CONFIG, folder), utterances, (1.1,), CONFIG)
    assert len(second["u000", 1.1]) < len(frames)
    np.testing.assert_array_equal(first["u000", 1.1], frames)


def test_statistics_are_those_of_all_frames(cache: FeatureCache, recordings: list[Utterance]) -> None:
    frames = np.concatenate([cache[utterance.id, 1.0] for utterance in recordings]).astype(np.float64)
    mean, deviation = feature_statistics(cache, recordings)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation, frames.std(axis=0), rtol=1e-4)
    assert mean.dtype == deviation.dtype == np.float32
    again = feature_statistics(cache, recordings[::-1])
    assert np.array_equal(mean, again[0]) and np.array_equal(deviation, again[1])


def test_what_would_change_the_features_makes_a_new_shard(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 2)
    folder = tmp_path / "features"
    first = build_features(utterances, CONFIG, folder)
    old = shards(folder)
    soundfile.write(utterances[0].wav, np.linspace(-0.5, 0.5, 9600), 16000)
    second = build_features(utterances, CONFIG, folder)
    assert old.items() < shards(folder).items()  # the old shard is as it was
    np.testing.assert_allclose(second["u000", 1.0], direct(utterances[0]), rtol=2e-3, atol=2e-2)
    assert np.array_equal(first["u001", 1.0], second["u001", 1.0])
    other = FeatureConfig(sample_rate=16000, n_mels=24, n_fft=400)
    assert build_features(utterances, other, folder)["u000", 1.0].shape[1] == 24


def test_a_recording_of_the_same_length_takes_the_place_of_the_old(tmp_path: Path) -> None:
    """By its time of modification alone: path and size are what they were."""
    utterances = record(tmp_path / "recordings", 1)
    path, folder = Path(utterances[0].wav), tmp_path / "features"
    build_features(utterances, CONFIG, folder)
    before = path.stat()
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples[::-1].copy(), rate)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    frames = build_features(utterances, CONFIG, folder)["u000", 1.0]
    np.testing.assert_allclose(frames, direct(utterances[0]), rtol=2e-3, atol=2e-2)


# One for each setting; n_fft holds the longer window.
OTHER_FEATURES: dict[str, dict[str, Any]] = {
    "sample_rate": {"sample_rate": 8000},
    "n_mels": {"n_mels": 24},
    "n_fft": {"n_fft": 512},
    "win_ms": {"win_ms": 20},
    "hop_ms": {"hop_ms": 12},
    "subtract_mean": {"subtract_mean": True},
    "mean_gate_db": {"subtract_mean": True, "mean_gate_db": None},
    "kind": {"kind": FeatureKind.waveform},
}


def test_every_setting_of_the_filterbank_has_features_of_its_own(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 1)
    assert OTHER_FEATURES.keys() == {field.name for field in fields(FeatureConfig)}, "a value for each setting"
    found = [build_features(utterances, CONFIG, tmp_path / "features")["u000", 1.0].tobytes()]
    for name, changes in OTHER_FEATURES.items():
        config = replace(CONFIG, **changes)
        there, alone = (
            build_features(utterances, config, tmp_path / folder)["u000", 1.0].tobytes()
            for folder in ("features", f"features-{name}")
        )
        assert there == alone, f"{name}: those of another setting"
        found.append(there)
    assert len(set(found)) == len(found)


def test_a_recording_that_is_gone_or_broken_is_named(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 2)
    Path(utterances[1].wav).unlink()
    with pytest.raises(UserError, match=r"r1\.wav \(u001\)"):
        build_features(utterances, CONFIG, tmp_path / "features")
    Path(utterances[1].wav).write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"r1\.wav"):
        build_features(utterances, CONFIG, tmp_path / "features")


def test_a_recording_that_would_poison_the_features_is_named(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 2)
    signal = np.full(8000, 0.1, dtype=np.float32)
    signal[4000] = np.nan
    soundfile.write(utterances[1].wav, signal, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"u001: .*r1\.wav holds samples that are not finite.* Prepare"):
        build_features(utterances, CONFIG, tmp_path / "features")


def builder(script: Path, manifest: Path, folder: Path) -> subprocess.Popen[str]:
    script.write_text(textwrap.dedent(BUILD))
    return subprocess.Popen(
        [sys.executable, str(script), str(manifest), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def children(pid: int) -> list[int]:
    """Process ids, with theirs, of all that a process has started (Linux)."""
    own = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return own + [further for child in own for further in children(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find a process's children")
def test_a_killed_build_is_taken_over_and_leaves_no_process(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 258, seconds=0.2)  # a shard of 256 and one of 2
    endless = Path(utterances[0].wav)
    endless.unlink()
    os.mkfifo(endless)  # a recording that never begins: the first shard is never finished
    write_manifest(tmp_path / "manifest.csv", utterances)
    folder = tmp_path / "features"
    process = builder(tmp_path / "build.py", tmp_path / "manifest.csv", folder)
    wait_until(lambda: list(folder.glob("*.json")))  # one worker is still at it, the other has nothing left to do
    started = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()  # its output is not read to the end: a worker that lives on would hold it open
    finished = shards(folder)
    assert started
    wait_until(lambda: not any(map(alive, started)), lambda: "workers of a killed build live on")
    assert len(list(folder.glob("*.json"))) == 1, "it was not killed in between"

    endless.unlink()
    soundfile.write(endless, np.linspace(-0.5, 0.5, 3200), 16000)
    rebuilt = build_features(utterances, CONFIG, folder)
    assert finished.items() <= shards(folder).items()  # what was there is used
    for utterance in (utterances[0], utterances[-1]):
        np.testing.assert_allclose(rebuilt[utterance.id, 1.0], direct(utterance), rtol=2e-3, atol=2e-2)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to find the files that are open")
def test_there_may_be_more_shards_than_a_process_may_have_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_UTTERANCES", 1)
    utterances = record(tmp_path / "recordings", 40, seconds=0.1)
    cache = build_features(utterances, CONFIG, tmp_path / "features")
    assert len(cache.shards[1.0]) == 40
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    try:
        frames = [cache[utterance.id, 1.0] for utterance in utterances]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for utterance, found in zip(utterances, frames, strict=True):
        np.testing.assert_allclose(found, direct(utterance), rtol=2e-3, atol=2e-2)
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0


def test_a_build_that_died_while_writing_is_repeated(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 3)
    folder = tmp_path / "features"
    expected = build_features(utterances, CONFIG, folder)
    values = {u.id: expected[u.id, 1.0].copy() for u in utterances}
    [index] = folder.glob("*.json")
    # What a kill leaves: a shard without its index, a torn temporary file, a lock that nobody holds.
    index.unlink()
    index.with_suffix(".npy").write_bytes(b"\x93NUMPY torn")
    index.with_suffix(".4711").write_bytes(b"half of it")
    index.with_suffix(".lock").touch()
    features._mapped.cache_clear()  # as in another process
    again = build_features(utterances, CONFIG, folder)
    for utterance in utterances:
        assert np.array_equal(again[utterance.id, 1.0], values[utterance.id])


def test_two_builders_at_once_agree(tmp_path: Path) -> None:
    utterances = record(tmp_path / "recordings", 40)
    write_manifest(tmp_path / "manifest.csv", utterances)
    folder = tmp_path / "features"
    builders = [builder(tmp_path / f"build{n}.py", tmp_path / "manifest.csv", folder) for n in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in builders]
    assert [process.returncode for process in builders] == [0, 0], outputs
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix != ".lock") == [".json", ".npy"]
    built = shards(folder)
    cache = build_features(utterances, CONFIG, folder)
    assert shards(folder) == built
    np.testing.assert_allclose(cache["u007", 1.0], direct(utterances[7]), rtol=2e-3, atol=2e-2)
