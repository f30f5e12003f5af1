import json
from pathlib import Path

import pytest

from asr_fed.data.manifest import read_manifest
from asr_fed.data_prep import librispeech
from asr_fed.system.errors import UserError
from tests.data_prep import write_tone


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "LibriSpeech"
    for subset, reader in (("train-clean-100", "19"), ("dev-other", "26"), ("test-clean", "27")):
        chapter = root / subset / reader / "198"
        names = [f"{reader}-198-{number:04d}" for number in range(4)]
        for name in names:
            write_tone(chapter / f"{name}.flac")
        lines = "".join(f"{name} IT'S A FINE DAY\n" for name in names)
        # as an editor of another system saves it: nothing is lost
        (chapter / f"{reader}-198.trans.txt").write_text(lines, encoding="utf-8-sig")
    (root / "SPEAKERS.TXT").write_text(
        ";ID |SEX| SUBSET |MINUTES| NAME\n"
        "19   | F | train-clean-100  | 25.19 | Kara | Lee\n"
        "26   | M | dev-other        | 8.01  | Denny\n"
    )
    return root


def test_subsets_give_splits_and_readers_their_gender(corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    utterances = librispeech.prepare(str(tmp_path), str(manifest))
    assert read_manifest(manifest) == utterances and len(utterances) == 12
    assert {(u.speaker, u.gender, u.split, u.text, u.locale) for u in utterances} == {
        ("19", "female", "train", "it's a fine day", "en"),
        ("26", "male", "dev", "it's a fine day", "en"),
        ("27", "", "test", "it's a fine day", "en"),
    }


def test_only_the_subsets_asked_for(corpus: Path, tmp_path: Path) -> None:
    utterances = librispeech.prepare(str(corpus), str(tmp_path / "m.csv"), subsets=["test-clean"])
    assert [u.id for u in utterances] == [f"27-198-{number:04d}" for number in range(4)]
    with pytest.raises(UserError, match=r"does not hold train-clean-360; there is dev-other, test-clean, train"):
        librispeech.prepare(str(corpus), str(tmp_path / "m.csv"), subsets=["train-clean-360"])
    with pytest.raises(UserError, match="any LibriSpeech subset"):
        librispeech.prepare(str(corpus / "test-clean"), str(tmp_path / "m.csv"))


def test_clips_and_transcripts_without_each_other_are_named(corpus: Path, tmp_path: Path) -> None:
    chapter = corpus / "dev-other" / "26" / "198"
    (chapter / "26-198-0000.flac").unlink()
    write_tone(chapter / "26-198-0009.flac")
    with (chapter / "26-198.trans.txt").open("ab") as file:
        file.write("26-198-0010 CAFÉ\n".encode("latin-1"))
    assert len(librispeech.prepare(str(corpus), str(tmp_path / "m.csv"), min_kept=0.7)) == 11
    dropped = json.loads((tmp_path / "preparation.json").read_text())["dropped"]
    assert {reason: entry["first"] for reason, entry in dropped.items()} == {
        "missing file": ["26-198-0000"],
        "no transcript": ["26-198-0009"],
        "row that is not UTF-8": ["26-198.trans.txt:5"],
    }


def test_a_chapter_without_its_transcripts_is_counted(corpus: Path, tmp_path: Path) -> None:
    (corpus / "dev-other" / "26" / "198" / "26-198.trans.txt").unlink()
    assert len(librispeech.prepare(str(corpus), str(tmp_path / "m.csv"), min_kept=0.6)) == 8
    dropped = json.loads((tmp_path / "preparation.json").read_text())["dropped"]
    names = [f"26-198-{number:04d}" for number in range(4)]
    assert dropped == {"no transcript": {"kind": "defect", "clips": 4, "first": names}}
    with pytest.raises(UserError, match=r"66\.7% of 12 rows .* no transcript 4"):
        librispeech.prepare(str(corpus), str(tmp_path / "m.csv"))


def test_what_a_mac_left_beside_each_file_is_passed_over(corpus: Path, tmp_path: Path) -> None:
    for path in [path for path in corpus.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert len(librispeech.prepare(str(corpus), str(tmp_path / "m.csv"))) == 12
    assert json.loads((tmp_path / "preparation.json").read_text())["dropped"] == {}


def test_the_command_takes_subsets_and_shared_options(corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    arguments = [str(corpus), str(manifest), "--subsets", "dev-other", "test-clean", "--case", "upper"]
    assert librispeech.main(arguments) == 0
    assert {u.text for u in read_manifest(manifest)} == {"IT'S A FINE DAY"}
    assert librispeech.main([*arguments, "--min-seconds", "2"]) == 2
