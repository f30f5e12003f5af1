"""Wrong transcripts on purpose: whose they are, what is left alone, and that the partition says so."""

import json
from pathlib import Path

import pytest

from asr_fed.config.schema import ClientsConfig, PartsConfig
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition, describe
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.data.wrong_transcripts import with_wrong_transcripts
from asr_fed.system.errors import UserError


@pytest.fixture
def partition() -> Partition:
    """Ten clients of six utterances, each with a text of its own; one of the six is the client's dev part."""
    spoken = [
        Utterance(
            f"s{speaker:02}-{number}", 2.0, f"/{speaker}-{number}.flac", f"s{speaker:02}", f"{speaker} says {number}"
        )
        for speaker in range(14)
        for number in range(6)
    ]
    parts = PartsConfig(warm_up_speakers=1, held_out_speakers=1, dev_speakers=1, test_speakers=1)
    return partition_speakers(spoken, parts, ClientsConfig(dev_fraction=0.1, dev_min_utterances=2), seed=1)


def texts(partition: Partition) -> dict[str, str]:
    return {utterance.id: utterance.text for client in partition.clients for utterance in client.utterances}


def test_every_transcript_of_the_share_is_wrong_and_no_other(partition: Partition) -> None:
    changed = with_wrong_transcripts(partition, 0.3, seed=5)
    assert len(changed.wrong_transcripts) == 3
    before, after = texts(partition), texts(changed)
    corrupted = [u.id for c in changed.clients if c.id in changed.wrong_transcripts for u in c.utterances]
    assert {name for name in before if before[name] != after[name]} == set(corrupted) and len(corrupted) == 18
    assert sorted(after.values()) == sorted(before.values()), "nothing is invented, the texts have changed places"
    assert changed.server_parts == partition.server_parts
    assert [len(client.dev) for client in changed.clients] == [len(client.dev) for client in partition.clients]


def test_the_seed_decides_and_more_contains_less(partition: Partition) -> None:
    assert with_wrong_transcripts(partition, 0.3, seed=5) == with_wrong_transcripts(partition, 0.3, seed=5)
    assert with_wrong_transcripts(partition, 0.3, seed=6) != with_wrong_transcripts(partition, 0.3, seed=5)
    few, many = (with_wrong_transcripts(partition, share, seed=5).wrong_transcripts for share in (0.1, 0.3))
    assert len(few) == 1 and few < many


def test_none_is_the_default(partition: Partition) -> None:
    assert with_wrong_transcripts(partition, ClientsConfig().wrong_transcripts, seed=5) is partition


def test_the_report_of_the_partition_says_so(partition: Partition, tmp_path: Path) -> None:
    changed = with_wrong_transcripts(partition, 0.2, seed=5)
    write_partition(changed, tmp_path)
    assert read_partition(tmp_path) == changed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["clients_with_wrong_transcripts_on_purpose"]) == changed.wrong_transcripts
    assert describe(changed).endswith("10 clients, 2 of them with wrong transcripts on purpose")
    write_partition(partition, tmp_path)
    assert read_partition(tmp_path) == partition and "on purpose" not in (tmp_path / "summary.json").read_text()


def test_a_single_utterance_cannot_be_wrong(partition: Partition) -> None:
    [client, *_] = partition.clients
    alone = Partition((), (), (), (), (type(client)(client.id, client.train[:1], ()),))
    with pytest.raises(UserError, match="single utterance"):
        with_wrong_transcripts(alone, 1.0, seed=5)
