import json
import subprocess
import sys
from pathlib import Path

import pytest

from asr_fed.data.manifest import read_manifest
from asr_fed.data_prep import common_voice
from asr_fed.system.errors import UserError
from tests.data_prep import write_tone

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"


def row(name: str, sentence: str, speaker: str = "anne", gender: str = "female", locale: str = "fr") -> str:
    return f"{speaker}\t{name}\t{sentence}\t2\t0\ttwenties\t{gender}\tsuisse\t{locale}\t"


def make_release(folder: Path, rows: dict[str, list[str]], *, header: str = HEADER, encoding: str = "utf-8") -> Path:
    for table, lines in rows.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / table).write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
        for number in range(10):
            write_tone(folder / "clips" / f"{table[:-4]}{number}.mp3", rate=48000)
    return folder


def test_splits_text_and_demographics(tmp_path: Path) -> None:
    release = make_release(
        tmp_path / "fr",
        {
            "train.tsv": [row("train0.mp3", '"Quelle idée ! dit-il', "bob", "male_masculine")],
            "test.tsv": [row("test0.mp3", "L’eau")],
            "validated.tsv": [row("validated0.mp3", "ailleurs")],
        },
    )
    manifest = tmp_path / "manifest.csv"
    utterances = common_voice.prepare(str(tmp_path), str(manifest), language="fr")
    assert read_manifest(manifest) == utterances
    assert [(u.id, u.speaker, u.text, u.gender, u.split) for u in utterances] == [
        ("train0", "bob", "quelle idée dit il", "male", "train"),
        ("test0", "anne", "l'eau", "female", "test"),
    ]
    assert {(u.age, u.accent, u.locale) for u in utterances} == {("twenties", "suisse", "fr")}
    assert utterances[0].wav == str(release / "clips" / "train0.mp3")
    assert utterances[0].duration == pytest.approx(1.5, abs=0.1)


def test_a_recent_release_with_only_validated(tmp_path: Path) -> None:
    header = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\taccents\tvariant\tlocale"
    lines = ["bob\tvalidated0.mp3\t77\tHej då\t\t2\tSkåne\t\tsv-SE"]
    make_release(tmp_path / "sv-SE", {"validated.tsv": lines}, header=header)
    [one] = common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"), language="de", locale="sv-SE")
    assert (one.text, one.accent, one.locale, one.split) == ("hej da", "Skåne", "sv-SE", "")


def test_paths_without_a_suffix_are_mp3(tmp_path: Path) -> None:
    make_release(tmp_path, {"train.tsv": [row("train0", "oui")]})
    assert common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))[0].id == "train0"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    make_release(tmp_path, {"train.tsv": [row("train0.mp3", "l’été à\u2028Noël")]}, encoding=encoding)
    assert common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))[0].text == "l'été à noël"


def test_rows_in_another_encoding_or_shape_are_dropped_and_named(tmp_path: Path) -> None:
    lines = [row(f"train{number}.mp3", "été") for number in range(8)]
    make_release(tmp_path, {"train.tsv": [*lines, "anne\ttrain8.mp3\toui"]})
    with (tmp_path / "train.tsv").open("ab") as file:
        file.write(row("train9.mp3", "été").encode("latin-1"))
    manifest = tmp_path / "m.csv"
    assert len(common_voice.prepare(str(tmp_path), str(manifest))) == 8
    text = manifest.with_name("preparation.json").read_text()
    assert "train.tsv:10" in text and "malformed row" in text
    assert "train.tsv:11" in text and "row that is not UTF-8" in text


def test_a_table_in_another_encoding_altogether_is_an_error(tmp_path: Path) -> None:
    lines = [row(f"train{number}.mp3", "été") for number in range(10)] + [row("x.mp3", "oui")] * 90
    make_release(tmp_path, {"train.tsv": lines}, encoding="latin-1")
    with pytest.raises(UserError, match=r"train\.tsv is not UTF-8.*iconv"):
        common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    make_release(tmp_path, {"dev.tsv": []}, header="speaker\tpath\tsentence")
    with pytest.raises(UserError, match=r"dev\.tsv: column\(s\) client_id missing\. Found: speaker, path, sentence"):
        common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))


def test_another_language_and_no_release_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Common Voice release"):
        common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))
    make_release(tmp_path, {"train.tsv": [row("train0.mp3", "yes", locale="en")]})
    with pytest.raises(UserError, match="line 2: the clip is of locale 'en', not 'fr'"):
        common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(UserError, match=r"neither train\.tsv, dev\.tsv, test\.tsv nor validated\.tsv"):
        common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"))


def test_the_clips_folder_may_be_a_link_but_no_clip_may_leave_it(tmp_path: Path) -> None:
    lines = [row(f"train{number}.mp3", "oui") for number in range(5)]
    release = make_release(tmp_path / "fr", {"train.tsv": [*lines, row("../stray.mp3", "non")]})
    write_tone(release / "stray.mp3")
    (release / "clips").rename(tmp_path / "disk")
    (release / "clips").symlink_to(tmp_path / "disk")
    assert len(common_voice.prepare(str(release), str(tmp_path / "m.csv"))) == 5
    assert "outside the corpus folder" in (tmp_path / "preparation.json").read_text()


def test_clips_that_no_table_names_are_shown_and_stop_nothing(tmp_path: Path) -> None:
    tables = {"train.tsv": [row("train0.mp3", "oui"), row("train1.mp3", "oui"), "anne\ttrain3.mp3\toui"]}
    make_release(tmp_path, tables | {"other.tsv": [row("other0.mp3", "non"), row("other1", "non")]})
    for path in (tmp_path / "clips").glob("*[4-9].mp3"):
        path.unlink()
    (tmp_path / "clips" / "._train0.mp3").write_bytes(b"Mac OS X")
    (tmp_path / "._other.tsv").write_bytes(b"\xb0\0Mac OS X")
    assert len(common_voice.prepare(str(tmp_path), str(tmp_path / "m.csv"), min_kept=0.6)) == 2
    report = json.loads((tmp_path / "preparation.json").read_text())
    names = ["other2.mp3", "other3.mp3", "train2.mp3"]
    assert report["dropped"]["not in the table"] == {"kind": "rule", "clips": 3, "first": names}
    assert report["rows"] == 3  # so that they do not make the others' share look better


def test_the_command(tmp_path: Path) -> None:
    make_release(tmp_path, {"train.tsv": [row("train0.mp3", "oui"), row("train1.mp3", "non")]})
    command = [sys.executable, "-m", "asr_fed.data_prep.common_voice", str(tmp_path), str(tmp_path / "m.csv")]
    done = subprocess.run([*command, "--language", "fr"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 rows, 2 kept" in done.stdout and len(read_manifest(tmp_path / "m.csv")) == 2
    failed = subprocess.run([*command, "--language", "frr"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("asr_fed.data_prep.common_voice: ") and "Traceback" not in failed.stderr


def test_the_command_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'speechbrain', 'matplotlib'}"
    code = f"import sys, asr_fed.data_prep.common_voice; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
