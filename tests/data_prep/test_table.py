import json
from pathlib import Path

import pytest

from asr_fed.data.manifest import read_manifest
from asr_fed.system.errors import UserError
from data_prep import table
from tests.data_prep import write_tone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for speaker in ("anna", "ugo"):
        for number in range(4):
            write_tone(tmp_path / speaker / f"{number}.wav")
    return tmp_path


def test_a_csv_of_ones_own(folder: Path) -> None:
    source, manifest = folder / "table.csv", folder / "out" / "manifest.csv"
    source.write_text(
        "path,speaker,text,split,gender\n"
        'anna/0.wav,anna,"Sì, certo.",train,female\n'
        'ugo/0.wav,ugo,"Un ""po\'"" così",valid,\n'
    )
    utterances = table.prepare(str(source), str(manifest), language="it")
    assert read_manifest(manifest) == utterances
    assert [(u.id, u.speaker, u.text, u.split, u.gender) for u in utterances] == [
        ("anna/0.wav", "anna", "sì certo", "train", "female"),
        ("ugo/0.wav", "ugo", "un po' così", "dev", ""),
    ]
    assert utterances[0].wav == str(folder / "anna" / "0.wav")


@pytest.mark.parametrize(("name", "delimiter"), [("t.tsv", "\t"), ("t.csv", ";"), ("t.csv", ",")])
def test_delimiters_and_names_of_columns(folder: Path, name: str, delimiter: str) -> None:
    rows = [["id", "file", "who", "said"], ["one", str(folder / "ugo" / "1.wav"), "ugo", 'dice "no']]
    (folder / name).write_text("\r\n".join(delimiter.join(fields) for fields in rows))
    arguments = [str(folder / name), str(folder / "m.csv"), "--language", "it"]
    columns = ["--path-column", "file", "--speaker-column", "who", "--text-column", "said"]
    assert table.main([*arguments, *columns]) == 0
    [one] = read_manifest(folder / "m.csv")
    assert (one.id, one.speaker, one.text) == ("one", "ugo", "dice no")
    assert table.main(arguments) == 2


def test_names_in_two_unicode_forms_are_one_person_and_one_id(folder: Path) -> None:
    rows = ["é1,ugo/0.wav,José,sì", "e\u03011,ugo/1.wav,José,sì", "b,ugo/2.wav,Jose\u0301 ,no"]
    (folder / "t.csv").write_text("\n".join(["id,path,speaker,text", *rows]), encoding="utf-16")
    kept = table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it", min_kept=0.5)
    assert [(u.id, u.speaker) for u in kept] == [("é1", "José"), ("b", "José")]
    assert json.loads((folder / "preparation.json").read_text())["dropped"]["duplicate id"]["first"] == ["é1"]


def test_people_whose_names_look_alike_are_named(folder: Path) -> None:
    rows = ["ugo/0.wav,Ugo Rossi,sì", "ugo/1.wav,Ugo\u00a0Rossi,no"]
    (folder / "t.csv").write_text("\n".join(["path,speaker,text", *rows]))
    with pytest.raises(UserError, match="look alike"):
        table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it")


def test_an_unclosed_quotation_mark_does_not_swallow_rows_unseen(folder: Path) -> None:
    rows = [f"anna/{number}.wav,anna,ciao" for number in range(4)]
    (folder / "t.csv").write_text("\n".join(["path,speaker,text", *rows, 'ugo/0.wav,ugo,"eh', "ugo/1.wav,ugo,sì"]))
    with pytest.raises(UserError, match=r"malformed row 2 \(first: t\.csv:6\)"):
        table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it")


def test_recordings_outside_the_folder_of_the_table_are_refused(folder: Path) -> None:
    (folder / "ugo" / "t.tsv").write_text("path\tspeaker\ttext\n../anna/0.wav\tanna\tciao\n0.wav\tugo\tciao\n")
    kept = table.prepare(str(folder / "ugo" / "t.tsv"), str(folder / "m.csv"), language="it", min_kept=0.5)
    assert [u.id for u in kept] == ["0.wav"]
    assert "outside the corpus folder" in (folder / "preparation.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no table at"),
        ("", "is empty"),
        ("path,speaker\na,b\n", r"column\(s\) text missing"),
        ("path,speaker,text,text\na,b,c,d\n", "text occur twice"),
        ("path,speaker,text,split\na,b,c,trian\n", "line 2: split 'trian'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        table.prepare(str(tmp_path / "t.csv"), str(tmp_path / "m.csv"))
