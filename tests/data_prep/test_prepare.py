import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_fed.data.audio import Recording, open_recording
from asr_fed.data.manifest import read_manifest
from asr_fed.data_prep import measure
from asr_fed.data_prep.measure import read_probes
from asr_fed.data_prep.prepare import Clip, write_corpus
from asr_fed.system.errors import UserError
from tests.data_prep import write_tone


def good_clips(root: Path, count: int) -> list[Clip]:
    paths = [write_tone(root / f"good{number}.wav", 1 + number / 100) for number in range(count)]
    return [Clip(path.stem, path.name, f"s{number % 3}", "bonjour à tous") for number, path in enumerate(paths)]


def report(manifest: Path) -> dict[str, list[str]]:
    summary = json.loads(manifest.with_name("preparation.json").read_text(encoding="utf-8"))
    return {reason: entry["first"] for reason, entry in summary["dropped"].items()}


def test_good_clips_become_a_manifest_that_reads_back(tmp_path: Path) -> None:
    root, manifest = tmp_path / "corpus", tmp_path / "out" / "manifest.csv"
    path = write_tone(root / "a.flac", 2.25, rate=8000)
    clip = Clip("a", "a.flac", " anne ", "L’été !", "fr", "female", "thirties", "Québec, « joual »", "train")
    utterances = write_corpus([clip], root, manifest, language="fr")
    assert read_manifest(manifest) == utterances
    [one] = utterances
    assert (one.id, one.duration, one.wav, one.speaker, one.text) == ("a", 2.25, str(path), "anne", "l'été")
    assert (one.locale, one.gender, one.age, one.accent, one.split) == (
        *("fr", "female", "thirties", "Québec, « joual »", "train"),
    )


def break_file(path: Path) -> None:
    path.write_bytes(os.urandom(3000))


def truncate_mp3(path: Path) -> None:
    data = write_tone(path, 4).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def truncate_wav(path: Path) -> None:
    data = write_tone(path, 4).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def write_cancelling_channels(path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(32000) / 10)
    soundfile.write(path, np.stack([tone, -tone], axis=1), 16000)


def write_nan(path: Path) -> None:
    soundfile.write(path, np.full(16000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "make", "changes", "reason"),
    [
        ("x.wav", lambda path: None, {}, "missing file"),
        ("x.wav", lambda path: path.mkdir(), {}, "missing file"),
        ("x.wav", break_file, {}, "broken file"),
        ("x.wav", write_nan, {}, "broken file"),
        ("x.mp3", truncate_mp3, {}, "broken file"),
        ("x.wav", truncate_wav, {}, "broken file"),
        ("x.wav", write_cancelling_channels, {}, "silent: channels cancel"),
        ("x.wav", lambda path: path.touch(), {}, "empty file"),
        ("x.wav", lambda path: write_tone(path, 0), {}, "empty file"),
        ("x.wav", lambda path: write_tone(path, gain=0), {}, "silent"),
        ("x.wav", lambda path: write_tone(path, gain=0.001), {}, "silent"),
        ("x.wav", write_tone, {"id": "good0"}, "duplicate id"),
        ("x.wav", write_tone, {"speaker": " "}, "no speaker"),
        ("x.wav", write_tone, {"path": "../elsewhere.wav"}, "outside the corpus folder"),
        ("x.wav", write_tone, {"path": "../nowhere.wav"}, "outside the corpus folder"),
        ("x.wav", write_tone, {"path": "x\0.wav"}, "missing file"),
        ("x.wav", write_tone, {"path": "sub/../../elsewhere.wav"}, "outside the corpus folder"),
        ("x.wav", lambda path: path.symlink_to("../elsewhere.wav"), {}, "link out of the corpus folder"),
        ("x.wav", write_tone, {"sentence": "il a 3 ans"}, "refused text"),
        ("x.wav", lambda path: write_tone(path, 0.9), {}, "too short"),
        ("x.wav", lambda path: write_tone(path, 3.1), {}, "too long"),
    ],
)
def test_a_bad_clip_is_dropped_and_named(
    tmp_path: Path, name: str, make: Callable[[Path], object], changes: dict[str, str], reason: str
) -> None:
    root, manifest = tmp_path / "corpus", tmp_path / "manifest.csv"
    clips = good_clips(root, 5)
    write_tone(tmp_path / "elsewhere.wav")
    (root / "sub").mkdir()
    make(root / name)
    bad = {"id": "x", "path": name, "speaker": "s0", "sentence": "bonjour"} | changes
    utterances = write_corpus([*clips, Clip(**bad)], root, manifest, language="fr", max_seconds=3)
    assert [utterance.id for utterance in utterances] == [clip.id for clip in clips]
    assert report(manifest) == {reason: [bad["id"]]}


def test_a_corpus_with_30_percent_broken_clips_stops_and_leaves_the_older_manifest(tmp_path: Path) -> None:
    clips = good_clips(tmp_path, 10)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("older")
    for clip in clips[:3]:
        break_file(tmp_path / clip.path)
    with pytest.raises(UserError, match=r"70\.0% of 10 rows .*broken file 3 \(first: good0\)"):
        write_corpus(clips, tmp_path, manifest, language="fr")
    assert manifest.read_text() == "older"
    assert report(manifest) == {"broken file": ["good0", "good1", "good2"]}
    assert len(write_corpus(clips, tmp_path, manifest, language="fr", min_kept=0.7)) == 7


def test_rules_never_stop_a_preparation_unless_nothing_is_left(tmp_path: Path) -> None:
    clips = good_clips(tmp_path, 10)
    manifest = tmp_path / "manifest.csv"
    assert len(write_corpus(clips, tmp_path, manifest, language="fr", max_seconds=1.005, min_seconds=0.5)) == 1
    with pytest.raises(UserError, match="nothing usable among 10 rows"):
        write_corpus(clips, tmp_path, manifest, language="fr", min_seconds=2)


def test_unreadable_rows_count_as_defects(tmp_path: Path) -> None:
    clips, manifest = good_clips(tmp_path, 7), tmp_path / "manifest.csv"
    bad_rows = {"malformed row": ["t.tsv:2", "t.tsv:5", "t.tsv:9"]}
    with pytest.raises(UserError, match="malformed row 3"):
        write_corpus(clips, tmp_path, manifest, language="fr", bad_rows=bad_rows)


def test_only_changed_files_are_measured_again(tmp_path: Path) -> None:
    root, manifest = tmp_path / "corpus", tmp_path / "manifest.csv"
    clips = good_clips(root, 4)
    before = write_corpus(clips, root, manifest, language="fr")
    for number in (1, 2):  # other content behind the same size and time is not looked at; a new time is
        path = root / f"good{number}.wav"
        status = path.stat()
        write_tone(path, 1 + number / 100, gain=0)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (number == 2)))
    after = write_corpus(clips, root, manifest, language="fr", min_kept=0.5)
    assert after == [before[0], before[1], before[3]]
    assert report(manifest) == {"silent": ["good2"]}


def test_a_damaged_cache_costs_only_what_it_lost(tmp_path: Path) -> None:
    clips, manifest = good_clips(tmp_path, 5), tmp_path / "manifest.csv"
    before = write_corpus(clips, tmp_path, manifest, language="fr")
    cache = tmp_path / "preparation_cache.jsonl"
    lines = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(lines[0] + b"\xff\x00 nonsense\n[1, 2]\n" + lines[1] + lines[2][:-9])
    assert set(read_probes(cache)) == {before[0].wav, before[1].wav}
    assert write_corpus(clips, tmp_path, manifest, language="fr") == before
    assert cache.read_bytes().splitlines(keepends=True) == lines


def test_an_interrupted_preparation_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, manifest = good_clips(tmp_path, 50), tmp_path / "manifest.csv"
    opened: list[str] = []
    interrupt_at = 40

    def open_or_interrupt(path: str) -> AbstractContextManager[Recording]:
        opened.append(path)
        if len(opened) == interrupt_at:
            raise KeyboardInterrupt
        return open_recording(path)

    monkeypatch.setattr(measure, "open_recording", open_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(clips, tmp_path, manifest, language="fr", workers=1)
    assert not manifest.exists()
    kept = read_probes(tmp_path / "preparation_cache.jsonl")
    assert kept
    opened.clear()
    interrupt_at = 0
    assert len(write_corpus(clips, tmp_path, manifest, language="fr", workers=1)) == 50
    assert len(opened) == 50 - len(kept)


def test_what_an_older_release_measured_is_measured_again(tmp_path: Path) -> None:
    clips, manifest = good_clips(tmp_path, 5), tmp_path / "manifest.csv"
    truncate_wav(tmp_path / "good3.wav")
    lines = []
    for clip in clips:
        path = tmp_path / clip.path
        lines.append(json.dumps([str(path), path.stat().st_size, path.stat().st_mtime_ns, 2.0, 0.3, ""]) + "\n")
    (tmp_path / "preparation_cache.jsonl").write_text("".join(lines))
    assert len(write_corpus(clips, tmp_path, manifest, language="fr")) == 4
    assert report(manifest) == {"broken file": ["good3"]}


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    clips = good_clips(root, 80)
    break_file(root / clips[50].path)
    one = write_corpus(clips, root, tmp_path / "one" / "manifest.csv", language="fr", workers=1)
    two = write_corpus(clips, root, tmp_path / "two" / "manifest.csv", language="fr", workers=2)
    assert one == two and len(one) == 79


@pytest.mark.parametrize(
    "options",
    [{"min_seconds": 5.0, "max_seconds": 2.0}, {"min_kept": 90.0}, {"workers": -1}, {"case": "title"}],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict) -> None:
    with pytest.raises(UserError, match=next(reversed(options))):
        write_corpus([], tmp_path, tmp_path / "manifest.csv", language="fr", **options)
