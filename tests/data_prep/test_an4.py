import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_fed.data.manifest import read_manifest
from asr_fed.data_prep import an4
from asr_fed.system.errors import UserError

SPEAKERS = [f"{sex}{number:02d}ab" for sex in "fm" for number in range(10)]
TONE = (0.3 * 32767 * np.sin(np.arange(8000) / 5)).astype(np.int16)  # half a second


def write_recording(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".sph":
        soundfile.write(path, TONE, 16000, format="NIST", endian="BIG")
    else:
        path.write_bytes(TONE.astype(">i2").tobytes())


def make_corpus(folder: Path, suffix: str) -> Path:
    """20 training speakers and two test speakers with two recordings each, laid out as CMU does."""
    (folder / "etc").mkdir(parents=True)
    for split, subset, speakers in (("train", "an4_clstk", SPEAKERS), ("test", "an4test_clstk", ["fcaw", "marh"])):
        names = [(speaker, f"{kind}-{speaker}-b") for speaker in speakers for kind in ("an251", "cen1")]
        for speaker, name in names:
            write_recording(folder / "wav" / subset / speaker / f"{name}{suffix}")
        form = "<s> RUBOUT G M {} </s> ({})\n" if split == "train" else "RUBOUT G M {} ({})\n"
        lines = [form.format("FIVE", name) for _, name in names]
        (folder / "etc" / f"an4_{split}.transcription").write_text("".join(lines))
        lines = [f"{subset}/{speaker}/{name}\n" for speaker, name in names]
        (folder / "etc" / f"an4_{split}.fileids").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("suffix", [".sph", ".raw"])
def test_splits_speakers_text_and_sound(tmp_path: Path, suffix: str) -> None:
    make_corpus(tmp_path / "an4", suffix)
    manifest = tmp_path / "prepared" / "manifest.csv"
    utterances = an4.prepare(str(tmp_path), str(manifest), min_seconds=0.3)
    assert read_manifest(manifest) == utterances and len(utterances) == 44
    assert {(u.text, u.locale) for u in utterances} == {("rubout g m five", "en")}
    speakers = {split: sorted({u.speaker for u in utterances if u.split == split}) for split in ("dev", "test")}
    assert speakers == {"dev": ["f00ab", "f09ab", "m08ab"], "test": ["fcaw", "marh"]}  # every ninth of those who train
    assert all(u.gender == {"f": "female", "m": "male"}[u.speaker[0]] for u in utterances)
    assert (utterances[0].id, utterances[0].split) == ("an251-f00ab-b", "dev")
    samples, rate = soundfile.read(utterances[0].wav, dtype="int16")
    assert rate == 16000 and np.array_equal(samples, TONE)


def test_copies_of_raw_recordings_are_made_once(tmp_path: Path) -> None:
    corpus, manifest = make_corpus(tmp_path / "an4", ".raw"), tmp_path / "prepared" / "manifest.csv"
    copy = Path(an4.prepare(str(corpus), str(manifest), min_seconds=0.3)[0].wav)
    made = copy.stat().st_mtime_ns
    an4.prepare(str(corpus), str(manifest), min_seconds=0.3)
    assert copy.stat().st_mtime_ns == made
    assert sorted(path.suffix for path in copy.parent.iterdir()) == [".flac"] * 44


@pytest.mark.parametrize("suffix", [".sph", ".raw"])
def test_what_does_not_fit_together_is_named(tmp_path: Path, suffix: str) -> None:
    corpus = make_corpus(tmp_path / "an4", suffix)
    (corpus / "wav" / "an4_clstk" / "f03ab" / f"cen1-f03ab-b{suffix}").unlink()
    with (corpus / "etc" / "an4_train.fileids").open("a") as file:
        file.write("an4_clstk/f04ab/an9-f04ab-b\n../../elsewhere/f04ab/an251-f04ab-b\n")
    with (corpus / "etc" / "an4_test.transcription").open("a") as file:
        file.write("RUBOUT FIVE\n")
    assert len(an4.prepare(str(corpus), str(tmp_path / "m.csv"), min_seconds=0.3)) == 43
    dropped = json.loads((tmp_path / "preparation.json").read_text())["dropped"]
    assert {reason: entry["first"] for reason, entry in dropped.items()} == {
        "missing file": ["cen1-f03ab-b"],
        "no transcript": ["an9-f04ab-b"],
        "malformed row": ["an4_train.fileids:42", "an4_test.transcription:5"],
    }


def test_a_recording_that_no_list_names_is_counted(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "an4", ".sph")
    write_recording(corpus / "wav" / "an4_clstk" / "f03ab" / "an9-f03ab-b.sph")
    (corpus / "wav" / "an4_clstk" / "f03ab" / "._an9-f03ab-b.sph").write_bytes(b"Mac OS X")
    assert len(an4.prepare(str(corpus), str(tmp_path / "m.csv"), min_seconds=0.3)) == 44
    dropped = json.loads((tmp_path / "preparation.json").read_text())["dropped"]
    assert dropped == {"no transcript": {"kind": "defect", "clips": 1, "first": ["an9-f03ab-b"]}}


def test_another_folder_or_half_a_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither etc/ nor an4/etc/"):
        an4.prepare(str(tmp_path), str(tmp_path / "m.csv"))
    corpus = make_corpus(tmp_path / "an4", ".sph")
    (corpus / "etc" / "an4_test.fileids").unlink()
    with pytest.raises(UserError, match=r"an4_test\.fileids is not there"):
        an4.prepare(str(corpus), str(tmp_path / "m.csv"))


def test_the_command_takes_shared_options(tmp_path: Path) -> None:
    corpus, manifest = make_corpus(tmp_path / "an4", ".sph"), tmp_path / "m.csv"
    assert an4.main([str(corpus), str(manifest), "--min-seconds", "0.3", "--case", "upper"]) == 0
    assert {u.text for u in read_manifest(manifest)} == {"RUBOUT G M FIVE"}
    assert an4.main([str(corpus), str(manifest)]) == 2  # all are shorter than a second
