"""Speech without transcripts: who has them, what happens to the rest, and that nothing measured on lacks one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.config.schema import ClientsConfig, PartsConfig
from asr_fed.data.manifest import Utterance, read_manifest, write_manifest
from asr_fed.data.partition import Partition, describe
from asr_fed.data.partition_files import read_client, read_client_rows, read_partition, write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.data.untranscribed import NO_TRANSCRIPT, hide_transcripts, keep_transcribed
from asr_fed.system.errors import UserError

PARTS = PartsConfig(warm_up_speakers=1, held_out_speakers=1, dev_speakers=1, test_speakers=1)
CLIENTS = ClientsConfig(dev_fraction=0.1, dev_min_utterances=2)


def spoken(speakers: int = 14) -> list[Utterance]:
    """Six utterances of each speaker."""
    return [
        Utterance(f"s{speaker:02}-{number}", 2.0, f"/{speaker}-{number}.flac", f"s{speaker:02}", f"{speaker} {number}")
        for speaker in range(speakers)
        for number in range(6)
    ]


@pytest.fixture
def partition() -> Partition:
    """Ten clients."""
    return partition_speakers(spoken(), PARTS, CLIENTS, seed=1)


def with_text(partition: Partition) -> set[str]:
    """Clients with a transcript; each of them has all."""
    found = set()
    for client in partition.clients:
        texts = [bool(utterance.text) for utterance in client.utterances]
        assert len(set(texts)) == 1
        if texts[0]:
            found.add(client.id)
    return found


def test_a_share_of_the_clients_keeps_its_transcripts_and_a_larger_share_contains_it(partition: Partition) -> None:
    shares = (0.0, 0.01, 0.3, 0.6)
    hidden = {share: hide_transcripts(partition, replace(PARTS, transcribed=share), 5) for share in shares}
    assert [len(with_text(each)) for each in hidden.values()] == [0, 1, 3, 6]
    assert with_text(hidden[0.01]) < with_text(hidden[0.3]) < with_text(hidden[0.6])
    assert hide_transcripts(partition, replace(PARTS, transcribed=0.3), 6) != hidden[0.3]
    assert hide_transcripts(partition, PARTS, 5) is partition
    for each in hidden.values():
        assert each.server_parts == partition.server_parts
        assert [u.id for client in each.clients for u in client.utterances] == [
            u.id for client in partition.clients for u in client.utterances
        ]
    assert describe(hidden[0.3]).endswith("10 clients, 7 of them without transcripts")


def test_a_file_names_the_speakers_who_keep_theirs(partition: Partition, tmp_path: Path) -> None:
    some = [client.speakers[0] for client in partition.clients[2:4]]
    listed = tmp_path / "transcribed.txt"
    listed.write_text("\n".join(some) + "\n")
    hidden = hide_transcripts(partition, replace(PARTS, transcribed_file=str(listed)), 5)
    assert with_text(hidden) == {client.id for client in partition.clients[2:4]}
    listed.write_text("nobody\n")
    with pytest.raises(UserError, match=r"transcribed\.txt: 1 of 1 speakers are not in the manifest, such as nobody"):
        hide_transcripts(partition, replace(PARTS, transcribed_file=str(listed)), 5)


def test_on_disk_there_is_no_transcript_either(partition: Partition, tmp_path: Path) -> None:
    hidden = hide_transcripts(partition, replace(PARTS, transcribed=0.3), 5)
    write_partition(hidden, tmp_path)
    assert read_partition(tmp_path) == hidden
    assert [read_client(tmp_path, rows) for rows in read_client_rows(tmp_path).values()] == list(hidden.clients)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["clients"]["untranscribed"]["utterances"] == 42
    said = (tmp_path / "partition.csv").read_text()
    gone = [u for u in partition.clients[0].train if partition.clients[0].id not in with_text(hidden)]
    assert not [utterance for utterance in gone if f",{utterance.text}," in said]


def test_where_nothing_learns_from_it_it_is_dropped(partition: Partition) -> None:
    hidden = hide_transcripts(partition, replace(PARTS, transcribed=0.3), 5)
    kept = keep_transcribed(hidden)
    assert {client.id for client in kept.clients} == with_text(hidden) and len(kept.dropped[NO_TRANSCRIPT]) == 42
    assert len(kept.utterances) == len(partition.utterances)
    assert keep_transcribed(kept) == kept and keep_transcribed(partition) is partition
    with pytest.raises(UserError, match=r"No client has transcripts: raise data\.parts\.transcribed"):
        keep_transcribed(hide_transcripts(partition, replace(PARTS, transcribed=0.0), 5))


def test_speakers_without_a_transcript_become_clients_whatever_is_drawn(tmp_path: Path) -> None:
    silent = {"s01", "s02", "s03"}
    mixed = [replace(each, text="") if each.speaker in silent else each for each in spoken(8)]
    for seed in range(8):
        made = partition_speakers(mixed, PARTS, CLIENTS, seed)
        assert silent <= {speaker for client in made.clients for speaker in client.speakers}
        assert all(utterance.text for part in made.server_parts.values() for utterance in part)
    listed = tmp_path / "warm.txt"
    listed.write_text("s02\n")
    with pytest.raises(UserError, match=r"1 speaker\(s\) have utterances without transcript, such as s02"):
        partition_speakers(mixed, replace(PARTS, warm_up_speakers=None, warm_up_file=str(listed)), CLIENTS, 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"test_speakers": 4}, "The test set needs 4 speaker"),
        ({"dev_speakers": 3}, "The dev set needs 3 speaker"),
        ({"warm_up_speakers": 2}, "warm_up_speakers=2"),
        ({"held_out_speakers": 2}, "held_out_speakers=2"),
    ],
)
def test_where_too_few_are_left_it_says_how_many_have_no_transcript(changes: dict[str, int], told: str) -> None:
    few = {"s00", "s01", "s02"}  # have transcripts
    mixed = [each if each.speaker in few else replace(each, text="") for each in spoken(9)]
    parts = replace(PARTS, held_out_speakers=0)
    assert len(partition_speakers(mixed, parts, CLIENTS, 1).clients) == 6
    why = r".* 6 of 9 speakers have utterances without transcript and become clients: the speakers of warm-up"
    with pytest.raises(UserError, match=told + why) as refused:
        partition_speakers(mixed, replace(parts, **changes), CLIENTS, 1)
    assert "fine_tune.epochs=0" not in str(refused.value)


def test_pretraining_alone_divides_speech_that_has_no_transcripts_as_any_other() -> None:
    whole, silent = spoken(), [replace(each, text="") for each in spoken()]
    with pytest.raises(UserError, match=r"test set needs 1 .* 14 of 14 .*task\.kind=best_rq fine_tune\.epochs=0"):
        partition_speakers(silent, PARTS, CLIENTS, 1)
    made = partition_speakers(silent, PARTS, CLIENTS, 1, reads_transcripts=False)
    like = partition_speakers(whole, PARTS, CLIENTS, 1)
    assert [u.id for u in made.kept] == [u.id for u in like.kept]
    own = [replace(each, split="test") if each.speaker == "s03" else each for each in silent]
    assert {u.speaker for u in partition_speakers(own, PARTS, CLIENTS, 1, reads_transcripts=False).test} == {"s03"}
    # Who could be a later recogniser's dev or test speaker is not pre-trained on.
    mixed = [replace(each, text="") if each.speaker > "s06" else each for each in whole]
    made = partition_speakers(mixed, PARTS, CLIENTS, 1, reads_transcripts=False)
    assert made == partition_speakers(mixed, PARTS, CLIENTS, 1)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_corpus_without_transcripts_to_measure_on_is_refused(split: str) -> None:
    mixed = [replace(each, text="", split=split) if each.speaker == "s03" else each for each in spoken()]
    with pytest.raises(UserError, match="dev or test set have utterances without transcript, such as s03"):
        partition_speakers(mixed, PARTS, CLIENTS, 1)


def test_a_manifest_may_lack_transcripts_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [replace(each, text="", wav=str(tmp_path / "a.wav")) for each in spoken(1)]
    write_manifest(tmp_path / "m.csv", rows)
    assert read_manifest(tmp_path / "m.csv", untranscribed=True) == rows
    with pytest.raises(UserError, match=r"m\.csv, line 2: the transcript \(wrd\) is empty"):
        read_manifest(tmp_path / "m.csv")
