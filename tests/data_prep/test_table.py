import json
from pathlib import Path

import pytest

from asr_fed.data.manifest import read_manifest
from asr_fed.data_prep import table
from asr_fed.system.errors import UserError
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


def test_paths_count_from_the_table_wherever_the_command_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "anna" / "t.csv").write_text("path,speaker,text\n0.wav,anna,ciao\n1.wav,anna,ciao\n")
    monkeypatch.chdir(folder)
    assert table.main(["anna/t.csv", "out/m.csv", "--language", "it"]) == 0
    assert [u.wav for u in read_manifest("out/m.csv")] == [str(folder / "anna" / name) for name in ("0.wav", "1.wav")]


def test_recordings_that_no_row_names_are_shown_and_stop_nothing(folder: Path) -> None:
    (folder / "anna" / "notes.txt").write_text("no recording")
    (folder / "anna" / "._0.wav").write_bytes(b"Mac OS X")
    (folder / "t.csv").write_text("path,speaker,text\nanna/0.wav,anna,ciao\nanna/1.wav,anna,ciao\n")
    assert len(table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it")) == 2
    report = json.loads((folder / "preparation.json").read_text())
    assert report["rows"] == 2
    names = ["anna/2.wav", "anna/3.wav"]  # ugo's folder is none of this table's
    assert report["dropped"] == {"not in the table": {"kind": "rule", "clips": 2, "first": names}}


def test_a_table_made_from_a_listing_may_name_what_a_mac_left(folder: Path) -> None:
    rows = [f"anna/{name}.wav,anna,ciao" for name in ("0", "._0", "1", "._1", "2", "._2", "3", "._3")]
    (folder / "t.csv").write_text("\n".join(["path,speaker,text", *rows]))
    assert len(table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it")) == 4
    assert '"shadow of a file"' in (folder / "preparation.json").read_text()


def test_links_out_of_the_folder_are_followed_where_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a NAS, where a corpus is a folder of links to where the recordings lie."""
    corpus = folder / "corpus"
    (corpus / "voices").mkdir(parents=True)
    (corpus / "voices" / "a.wav").symlink_to(folder / "anna" / "0.wav")
    (corpus / "ugo").symlink_to(folder / "ugo")
    (corpus / "voices" / "gone.wav").symlink_to(folder / "nowhere.wav")
    names = ["voices/a.wav", "ugo/1.wav", "voices/gone.wav", "../anna/1.wav", "ugo/../../anna/1.wav"]
    (corpus / "t.csv").write_text("\n".join(["path,speaker,text", *(f"{name},s,ciao" for name in names)]))
    arguments = [str(corpus / "t.csv"), str(folder / "m.csv"), "--language", "it", "--min-kept", "0.4"]
    assert table.main(arguments) == 2
    assert "link out of the corpus folder 3 (first: voices/a.wav)" in (error := capsys.readouterr().err)
    assert "--follow-links" in error
    assert table.main([*arguments, "--follow-links"]) == 0
    found = {u.id: u.wav for u in read_manifest(folder / "m.csv")}
    assert found == {"voices/a.wav": str(corpus / "voices" / "a.wav"), "ugo/1.wav": str(corpus / "ugo" / "1.wav")}
    dropped = json.loads((folder / "preparation.json").read_text())["dropped"]
    assert {reason: entry["first"] for reason, entry in dropped.items() if entry["kind"] == "defect"} == {
        "missing file": names[2:3],
        "outside the corpus folder": names[3:],
    }


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


def test_rows_without_a_text_are_dropped_or_kept_as_speech_without_transcripts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["ciao", "", " \u00a0 ", "ho 3 gatti", "日本", "..."]
    names = [f"{speaker}/{number}.wav" for speaker in ("anna", "ugo") for number in range(3)]
    rows = [f'{name},{name.split("/")[0]},"{text}"' for name, text in zip(names, said, strict=True)]
    (folder / "t.csv").write_text("\n".join(["path,speaker,text", *rows, "ugo/3.wav,ugo,sì"]), encoding="utf-8")
    arguments = [str(folder / "t.csv"), str(folder / "m.csv"), "--language", "it"]
    refused = {"kind": "rule", "clips": 3, "first": names[3:]}

    def report() -> tuple[int, dict[str, object]]:
        read = json.loads((folder / "preparation.json").read_text())
        read["dropped"].pop("not in the table")
        return read["untranscribed"], read["dropped"]

    assert table.main(arguments) == 0
    assert [u.text for u in read_manifest(folder / "m.csv")] == ["ciao", "sì"]
    assert report() == (0, {"empty text": {"kind": "rule", "clips": 2, "first": names[1:3]}, "refused text": refused})

    assert table.main([*arguments, "--untranscribed"]) == 0
    kept = read_manifest(folder / "m.csv", untranscribed=True)
    assert [(u.id, u.text) for u in kept] == [
        *((names[0], "ciao"), (names[1], ""), (names[2], "")),
        ("ugo/3.wav", "sì"),
    ]
    assert report() == (2, {"refused text": refused})
    assert "2 of the rows kept have no transcript" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"line 3: the transcript \(wrd\) is empty.*prepare without untranscribed"):
        read_manifest(folder / "m.csv")


def test_a_table_without_any_text_names_the_option_that_keeps_it(folder: Path) -> None:
    (folder / "t.csv").write_text("path,speaker,text\nanna/0.wav,anna,\nugo/0.wav,ugo,\n")
    with pytest.raises(UserError, match=r"empty text 2 \(first: anna/0\.wav\).*kept with untranscribed"):
        table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it")
    kept = table.prepare(str(folder / "t.csv"), str(folder / "m.csv"), language="it", untranscribed=True)
    assert read_manifest(folder / "m.csv", untranscribed=True) == kept and len(kept) == 2
