"""One person under one name, however Unicode writes it."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.config.schema import ClientsConfig, Deal, GroupBy, PartsConfig
from asr_fed.data.identity import identity, refuse_look_alikes
from asr_fed.data.manifest import COLUMNS, Utterance, read_manifest, write_manifest
from asr_fed.data.partition import Client, Partition
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.data_prep.table import prepare
from asr_fed.system.errors import UserError
from asr_fed.transcribe.recordings import find_recordings
from tests.data_prep import write_tone

PEOPLE = ["André", "Chloé", "François", "Jürgen", "José", "Søren", "Zoë", "Hélène"]


def both_forms() -> list[Utterance]:
    """Eight people, whose every second recording came from a system that decomposes letters."""
    rows = []
    for person in PEOPLE:
        for number in range(4):
            form = "NFD" if number % 2 else "NFC"
            name, region = unicodedata.normalize(form, person), unicodedata.normalize(form, "Québec")
            rows.append(Utterance(f"{name}-{number}", 2.0, f"/{name}.wav", name, "oui", accent=region))
    return rows


def as_found(path: Path, utterances: list[Utterance], form: str) -> None:
    """A manifest as another program writes it, in one Unicode form throughout."""
    write_manifest(path, utterances)
    path.write_text(unicodedata.normalize(form, path.read_text()))


def test_a_name_is_composed_and_bare() -> None:
    assert identity(" Zoe\u0308\u00a0") == "Zoë"
    assert identity("x²") == "x²"  # may be another than x2


def test_an_utterance_keeps_its_path_and_composes_everything_else() -> None:
    fields = dict.fromkeys(COLUMNS.values(), "e\u0301 ") | {"duration": 1.0}
    utterance = Utterance(**fields)  # type: ignore[arg-type]
    assert utterance.wav == "e\u0301 "
    assert utterance.text == "é "
    names = {name: getattr(utterance, name) for name in fields.keys() - {"duration", "wav", "text"}}
    assert set(names.values()) == {"é"}


def test_people_stay_whole_in_a_partition(tmp_path: Path) -> None:
    rows = both_forms()
    assert len({row.speaker for row in rows}) == len(PEOPLE)
    listed = tmp_path / "warm_up.txt"
    listed.write_text(unicodedata.normalize("NFD", "Zoë\nAndré\n"), encoding="utf-16")
    parts = PartsConfig(warm_up_file=str(listed), dev_speakers=1, test_speakers=1)
    grouped = ClientsConfig(count=4, deal=Deal.group, group_by=GroupBy.accent)
    partition = partition_speakers(rows, parts, grouped, seed=1)
    assert {row.speaker for row in partition.warm_up} == {"Zoë", "André"}
    places = [*partition.server_parts.values(), *(client.utterances for client in partition.clients)]
    owners = [speaker for place in places for speaker in {row.speaker for row in place}]
    assert sorted(owners) == sorted(PEOPLE)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_manifests_and_partitions_in_either_form_are_the_same(tmp_path: Path, form: str) -> None:
    rows = [replace(row, wav="/a.wav") for row in both_forms()]
    as_found(tmp_path / "manifest.csv", rows, form)
    assert read_manifest(tmp_path / "manifest.csv") == rows

    partition = Partition(tuple(rows), (), (), (), ())
    write_partition(partition, tmp_path)
    table = tmp_path / "partition.csv"
    table.write_text(unicodedata.normalize(form, table.read_text().replace(",warm_up,,", ",client,Zoë,train")))
    assert read_partition(tmp_path).clients == (Client("Zoe\u0308", tuple(rows), ()),)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_a_recording_is_found_under_either_form_of_its_name(tmp_path: Path, stored: str) -> None:
    """Which one lies on the disk depends on the system that unpacked the corpus."""
    clip = write_tone(tmp_path / unicodedata.normalize(stored, "André") / unicodedata.normalize(stored, "été.wav"))
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "André/été.wav")
        (tmp_path / "manifest.csv").write_text(f"ID,duration,wav,spk_id,wrd\na,1.5,{name},s,oui\n")
        assert [each.wav for each in read_manifest(tmp_path / "manifest.csv")] == [str(clip)]
        (tmp_path / "table.csv").write_text(f"path,speaker,text\n{name},s,oui\n")
        assert [each.wav for each in prepare(str(tmp_path / "table.csv"), str(tmp_path / "m.csv"))] == [str(clip)]
        (tmp_path / "list.txt").write_text(f"{tmp_path}/{name}\n")
        assert find_recordings([], tmp_path / "list.txt") == [clip]


def test_an_id_in_two_forms_is_one_id(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text("ID,duration,wav,spk_id,wrd\né,1,a.wav,s,oui\ne\u0301,1,b.wav,s,non\n")
    with pytest.raises(UserError, match="line 3: the ID 'é' occurs twice"):
        read_manifest(path)


@pytest.mark.parametrize(
    "twin", ["Ａnna Rossi", "Anna\u00a0Rossi", "Anna  Rossi", "Anna\u200b Rossi", "A\u00adnna Rossi"]
)
def test_names_that_only_look_alike_are_neither_joined_nor_parted(tmp_path: Path, twin: str) -> None:
    path = tmp_path / "manifest.csv"
    rows = [Utterance("a", 1.0, "/a.wav", "Anna Rossi", "sì"), Utterance("b", 1.0, "/b.wav", twin, "no")]
    write_manifest(path, rows)
    with pytest.raises(UserError, match=r"'Anna Rossi'.*look alike"):
        read_manifest(path)
    write_manifest(path, rows[1:])
    assert read_manifest(path)[0].speaker == twin


def test_names_that_differ_to_the_eye_pass() -> None:
    refuse_look_alikes(["anna", "Anna", "Ànna", "Anna-1", "Anna 1", "安娜"], "here")
