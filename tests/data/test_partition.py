"""Partition by speaker: nothing shared, nothing lost, the same for any order, and what the rules promise."""

import csv
import json
import random
from collections import Counter
from dataclasses import replace
from math import fsum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr_fed.config.schema import ClientsConfig, Deal, GroupBy, PartsConfig, TooSmall, WarmUpRule
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition, describe
from asr_fed.data.partition_files import read_client, read_client_rows, read_partition, summarise, write_partition
from asr_fed.data.split import partition_speakers
from asr_fed.data.spread import gini, spread
from asr_fed.reporting.partition_report import draw_histogram
from asr_fed.system.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"


def corpus(seconds: dict[str, list[float]], **columns: dict[str, str]) -> list[Utterance]:
    """A manifest from each speaker's durations; `columns` maps e.g. accent to {speaker: entry}."""
    return [
        Utterance(
            id=f"{speaker}-{i}",
            duration=duration,
            wav=f"/corpus/{speaker}-{i}.flac",
            speaker=speaker,
            text=f"sentence {i}",
            **{column: entries.get(speaker, "") for column, entries in columns.items()},
        )
        for speaker, durations in seconds.items()
        for i, duration in enumerate(durations)
    ]


def equal_speakers(count: int, seconds: float = 10.0, utterances: int = 2) -> list[Utterance]:
    return corpus({f"s{i:03}": [seconds / utterances] * utterances for i in range(count)})


def speakers(utterances: tuple[Utterance, ...]) -> set[str]:
    return {utterance.speaker for utterance in utterances}


def everything(partition: Partition) -> list[Utterance]:
    """All utterances of all places, as often as they occur."""
    places = [*partition.server_parts.values(), *partition.dropped.values()]
    places += [client.utterances for client in partition.clients]
    return [utterance for place in places for utterance in place]


EASY = PartsConfig(warm_up_speakers=1, dev_speakers=1, test_speakers=1)
seeds = st.integers(0, 2**32)


@st.composite
def corpora(draw: st.DrawFn, splits: tuple[str, ...] = ("", "train"), smallest: int = 6) -> list[Utterance]:
    utterances = []
    for i in range(draw(st.integers(smallest, 14))):
        accent, gender = draw(st.sampled_from(["", "north", "south", "west"])), draw(st.sampled_from("fm"))
        utterances += [
            Utterance(
                id=f"{i}-{j}",
                duration=draw(st.floats(0.25, 30)),
                wav=f"/corpus/{i}-{j}.mp3",
                speaker=f"speaker {i}",
                text=draw(st.text("ab é,\"\n'", min_size=1, max_size=6)),
                gender=gender,
                accent=accent,
                split=draw(st.sampled_from(splits)),
            )
            for j in range(draw(st.integers(1, 6)))
        ]
    return utterances


parts_configs = st.builds(
    PartsConfig,
    warm_up_speakers=st.integers(0, 2),
    warm_up_hours=st.none() | st.floats(0, 0.005),
    warm_up_rule=st.sampled_from(WarmUpRule),
    held_out_speakers=st.integers(0, 1),
    dev_speakers=st.none() | st.integers(1, 2),
    test_speakers=st.none() | st.integers(1, 2),
)
clients_configs = st.one_of(
    [
        st.builds(
            ClientsConfig,
            count=count,
            deal=deal,
            alpha=st.floats(0.05, 20),
            group_by=st.sampled_from([GroupBy.accent, GroupBy.gender]),
            min_seconds=st.sampled_from([0.0, 0.0, 10.0, 40.0]),
            too_small=st.sampled_from(TooSmall),
            dev_fraction=st.sampled_from([0.0, 0.2, 0.9]),
            dev_min_utterances=st.integers(2, 5),
        )
        for count, deal in ((st.none(), st.just(Deal.balanced)), (st.integers(1, 4), st.sampled_from(Deal)))
    ]
)
slow_is_fine = settings(max_examples=60, derandomize=True)


@slow_is_fine
@given(corpora(splits=("", "train", "train", "dev", "test")), parts_configs, clients_configs, seeds)
def test_every_utterance_is_in_one_place_and_every_speaker_in_one_part(utterances, parts, clients, seed):
    try:
        partition = partition_speakers(utterances, parts, clients, seed)
    except UserError:
        assume(False)
    assert Counter(everything(partition)) == Counter(utterances)
    assert partition.clients and all(client.train for client in partition.clients)
    assert partition.dev and partition.test

    places = [*partition.server_parts.values(), *(client.utterances for client in partition.clients)]
    assert sum(len(speakers(place)) for place in places) == len(set().union(*map(speakers, places)))

    ids = [client.id for client in partition.clients]
    assert ids == sorted(set(ids))


@slow_is_fine
@given(corpora(), parts_configs, clients_configs, seeds, st.randoms(use_true_random=False))
def test_order_of_the_manifest_does_not_matter(utterances, parts, clients, seed, shuffler):
    try:
        partition = partition_speakers(utterances, parts, clients, seed)
    except UserError:
        assume(False)
    shuffled = list(utterances)
    shuffler.shuffle(shuffled)
    assert partition_speakers(shuffled, parts, clients, seed) == partition


@settings(slow_is_fine, max_examples=15, suppress_health_check=list(HealthCheck))
@given(corpora(splits=("", "dev", "test", "train")), parts_configs, clients_configs, seeds)
def test_round_trip_to_disk(tmp_path, utterances, parts, clients, seed):
    try:
        partition = partition_speakers(utterances, parts, clients, seed)
    except UserError:
        assume(False)
    write_partition(partition, tmp_path)
    assert read_partition(tmp_path) == partition
    rows = read_client_rows(tmp_path)
    assert [read_client(tmp_path, rows[name]) for name in rows] == list(partition.clients)
    for client in partition.clients:
        assert rows[client.id].examples == len(client.train)
        for seconds, part in ((rows[client.id].train_seconds, client.train), (rows[client.id].dev_seconds, client.dev)):
            assert seconds == fsum(utterance.duration for utterance in part)


@slow_is_fine
@given(corpora(), st.integers(1, 3), seeds)
def test_balanced_clients_differ_by_less_than_their_lightest_speaker(utterances, count, seed):
    partition = partition_speakers(utterances, EASY, ClientsConfig(count), seed)
    assert len(partition.clients) == count
    held = Counter()
    for client in partition.clients:
        for utterance in client.utterances:
            held[utterance.speaker] += utterance.duration
    lightest = min(client.seconds for client in partition.clients)
    for client in partition.clients:
        assert client.seconds - min(held[speaker] for speaker in client.speakers) <= lightest + 1e-6


@slow_is_fine
@given(corpora(), st.floats(1, 60), seeds)
def test_small_clients_merge_until_each_has_the_minimum(utterances, min_seconds, seed):
    clients = ClientsConfig(min_seconds=min_seconds)
    alone = partition_speakers(utterances, EASY, ClientsConfig(), seed)
    held = {client.speakers[0]: client.seconds for client in alone.clients}
    assume(fsum(held.values()) > min_seconds + 1e-6)
    partition = partition_speakers(utterances, EASY, clients, seed)
    assert all(client.seconds >= min_seconds for client in partition.clients)
    assert not partition.dropped
    # Nobody large enough was merged with another who is.
    for client in partition.clients:
        assert sum(held[speaker] >= min_seconds for speaker in client.speakers) <= 1


@slow_is_fine
@given(corpora(), st.floats(1, 60), seeds)
def test_small_clients_drop_and_no_others(utterances, min_seconds, seed):
    alone = partition_speakers(utterances, EASY, ClientsConfig(), seed)
    large = {client.speakers for client in alone.clients if client.seconds >= min_seconds}
    clients = ClientsConfig(min_seconds=min_seconds, too_small=TooSmall.drop)
    if not large:
        with pytest.raises(UserError, match=r"min_seconds=.*leaves no client"):
            partition_speakers(utterances, EASY, clients, seed)
        return
    partition = partition_speakers(utterances, EASY, clients, seed)
    assert {client.speakers for client in partition.clients} == large
    small = {speaker for client in alone.clients if client.speakers not in large for speaker in client.speakers}
    assert speakers(partition.dropped.get("too_small", ())) == small


@slow_is_fine
@given(corpora(smallest=9), st.integers(1, 6), seeds)
def test_groups_are_mixed_only_where_there_are_fewer_clients_than_groups(utterances, count, seed):
    accent_of = {utterance.speaker: utterance.accent for utterance in utterances}
    clients = ClientsConfig(count, Deal.group, group_by=GroupBy.accent)
    try:
        partition = partition_speakers(utterances, EASY, clients, seed)
    except UserError as error:
        assert "accent" in str(error)
        assume(False)
    accents = [{accent_of[speaker] for speaker in client.speakers} for client in partition.clients]
    assert len(accents) == count
    groups = set().union(*accents)
    if count >= len(groups):
        assert all(len(mixed) == 1 for mixed in accents)
    else:
        assert sum(map(len, accents)) == len(groups)


def test_a_group_with_much_audio_gets_no_more_clients_than_speakers():
    accents = {f"n{i}": "north" for i in range(2)} | {f"s{i}": "south" for i in range(10)}
    utterances = corpus({s: [500.0 if accents[s] == "north" else 1.0] for s in accents}, accent=accents)
    evaluated = {"s0": "dev", "s1": "test"}
    utterances = [replace(u, split=evaluated.get(u.speaker, "")) for u in utterances]
    parts = PartsConfig(warm_up_speakers=0)
    partition = partition_speakers(utterances, parts, ClientsConfig(6, Deal.group), seed=0)
    assert sorted(len(client.speakers) for client in partition.clients) == [1, 1, 2, 2, 2, 2]


def test_merging_stays_within_a_group_where_it_can():
    accents = {f"s{i:03}": "north" if i % 2 else "south" for i in range(24)}
    utterances = corpus({speaker: [10.0] for speaker in accents}, accent=accents)
    clients = ClientsConfig(16, Deal.group, min_seconds=25)
    partition = partition_speakers(utterances, EASY, clients, seed=3)
    assert all(len({accents[speaker] for speaker in client.speakers}) == 1 for client in partition.clients)
    assert min(client.seconds for client in partition.clients) >= 25


def test_dirichlet_skews_more_the_smaller_alpha_is():
    utterances = equal_speakers(303)

    def inequality(alpha: float) -> float:
        clients = ClientsConfig(10, Deal.dirichlet, alpha=alpha)
        partition = partition_speakers(utterances, EASY, clients, seed=5)
        assert len(partition.clients) == 10
        return gini([client.seconds for client in partition.clients])

    assert inequality(1e4) < 0.05 < 0.3 < inequality(0.5) < inequality(0.01)
    # All of the mass on one client: the other nine hold one speaker each.
    assert inequality(0.01) == pytest.approx(gini([1] * 9 + [291]))


@pytest.mark.parametrize(
    ("utterances", "fraction", "minimum", "dev"),
    [(20, 0.1, 10, 2), (10, 0.01, 10, 1), (9, 0.1, 10, 0), (2, 0.9, 2, 1), (50, 0.0, 10, 0)],
)
def test_own_dev_part_of_a_client(utterances, fraction, minimum, dev):
    clients = ClientsConfig(dev_fraction=fraction, dev_min_utterances=minimum)
    partition = partition_speakers(equal_speakers(5, utterances=utterances), EASY, clients, seed=0)
    assert [len(client.dev) for client in partition.clients] == [dev] * 2
    assert [len(client.train) for client in partition.clients] == [utterances - dev] * 2


def test_the_papers_split_takes_those_who_speak_most():
    utterances = corpus({f"s{i:03}": [1.0 + i] for i in range(100)}, split={"s099": "test", "s000": "dev"})
    partition = partition_speakers(utterances, PartsConfig(warm_up_speakers=3), ClientsConfig(), seed=1)
    assert speakers(partition.warm_up) == {"s098", "s097", "s096"}
    assert len(partition.clients) == 95
    least = PartsConfig(warm_up_speakers=3, warm_up_rule=WarmUpRule.least_audio)
    partition = partition_speakers(utterances, least, ClientsConfig(), seed=1)
    assert speakers(partition.warm_up) == {"s001", "s002", "s003"}


def test_warm_up_by_hours_stops_once_they_are_reached():
    utterances = equal_speakers(20, seconds=360)
    parts = replace(EASY, warm_up_speakers=None, warm_up_hours=0.45)
    assert len(speakers(partition_speakers(utterances, parts, ClientsConfig(), 1).warm_up)) == 5
    both = replace(parts, warm_up_speakers=2)
    assert len(speakers(partition_speakers(utterances, both, ClientsConfig(), 1).warm_up)) == 2


def test_warm_up_from_a_list_is_kept_out_of_the_draws(tmp_path):
    listed = tmp_path / "warm_up.txt"
    listed.write_text("s001\n\n  s004 \ns007\n", encoding="utf-8")
    parts = PartsConfig(warm_up_file=str(listed), dev_speakers=2, test_speakers=2)
    for seed in range(10):
        partition = partition_speakers(equal_speakers(8), parts, ClientsConfig(), seed)
        assert speakers(partition.warm_up) == {"s001", "s004", "s007"}
        assert len(partition.clients) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("s001\nstranger\n", "1 of 2 .*stranger"),
        ("s009\n", "dev or test set, such as s009"),
        ("\n", "no speaker"),
        ("s001\ns008\n", "1 speaker.s. have only utterances of more than .*max_train_seconds=90.*s008"),
    ],
)
def test_a_wrong_warm_up_list_is_refused(tmp_path, content, message):
    listed = tmp_path / "warm_up.txt"
    listed.write_text(content, encoding="utf-8")
    utterances = [replace(u, split="test" if u.speaker == "s009" else "") for u in equal_speakers(10)]
    utterances = [replace(u, duration=99.0) if u.speaker == "s008" else u for u in utterances]
    parts = PartsConfig(warm_up_file=str(listed), max_train_seconds=90.0)
    with pytest.raises(UserError, match=message):
        partition_speakers(utterances, parts, ClientsConfig(), seed=0)


def test_a_speaker_of_several_splits_goes_to_test_before_dev_before_training():
    splits = {
        "a": ["train", "dev", "test"],
        "b": ["train", "dev"],
        "c": ["", "train"],
        "d": ["other", "train"],
    }
    utterances = [
        replace(utterance, split=split)
        for speaker, own in splits.items()
        for utterance, split in zip(corpus({speaker: [1.0] * len(own)}), own, strict=True)
    ]
    partition = partition_speakers(utterances, PartsConfig(warm_up_speakers=0), ClientsConfig(), seed=0)
    assert [utterance.id for utterance in partition.test] == ["a-2"]
    assert [utterance.id for utterance in partition.dev] == ["b-1"]
    assert [client.speakers for client in partition.clients] == [("c",), ("d",)]
    assert [utterance.id for utterance in partition.dropped["other_split"]] == ["a-0", "a-1", "b-0"]
    assert summarise(partition)["dropped"]["other_split"]["utterances"] == 3


def test_dev_and_test_by_share_of_the_hours():
    rng = random.Random(4)
    utterances = corpus({f"s{i:03}": [rng.paretovariate(1.0)] for i in range(300)})
    parts = PartsConfig(warm_up_speakers=5, dev_share=0.05, test_share=0.2)
    partition = partition_speakers(utterances, parts, ClientsConfig(), seed=2)
    total = fsum(utterance.duration for utterance in utterances)
    for part, share in ((partition.dev, 0.05), (partition.test, 0.2)):
        assert 0.95 * share < fsum(utterance.duration for utterance in part) / total <= share


def test_the_test_set_stays_when_other_demands_change():
    utterances = equal_speakers(30)
    wanted = replace(EASY, test_speakers=4)
    before = partition_speakers(utterances, wanted, ClientsConfig(), seed=7)
    others = replace(wanted, dev_speakers=3, warm_up_speakers=6, held_out_speakers=2)
    after = partition_speakers(utterances, others, ClientsConfig(5), seed=7)
    assert after.test == before.test
    assert speakers(before.dev) < speakers(after.dev)
    assert partition_speakers(utterances, wanted, ClientsConfig(), seed=8).test != before.test


def test_a_seed_means_the_same_partition_on_every_machine():
    # Written down once: a change here changes every published partition.
    parts = PartsConfig(
        warm_up_speakers=2,
        warm_up_rule=WarmUpRule.random,
        held_out_speakers=1,
        dev_speakers=1,
        test_speakers=2,
    )
    partition = partition_speakers(equal_speakers(10), parts, ClientsConfig(2), seed=1234)
    found = {name: sorted(speakers(part)) for name, part in partition.server_parts.items()}
    assert found == {
        "warm_up": ["s003", "s006"],
        "held_out": ["s001"],
        "dev": ["s009"],
        "test": ["s007", "s008"],
    }
    assert [client.speakers for client in partition.clients] == [("s000", "s004"), ("s002", "s005")]


@pytest.mark.parametrize(
    ("parts", "clients", "message"),
    [
        (EASY, ClientsConfig(8), "count=8 .* only 7 speaker.* of 10 .* 1 are test, 1 dev, 1 warm-up"),
        (replace(EASY, warm_up_speakers=8), ClientsConfig(), "No speaker is left .* 8 warm-up"),
        (replace(EASY, warm_up_speakers=117), ClientsConfig(), "warm_up_speakers=117.* 8 speaker"),
        (
            replace(EASY, warm_up_speakers=None, warm_up_hours=9),
            ClientsConfig(),
            "warm_up_hours=9.* hold 0.02 h",
        ),
        (replace(EASY, held_out_speakers=9), ClientsConfig(), "held_out_speakers=9.* leave only 7 of 10"),
        (replace(EASY, test_speakers=11), ClientsConfig(), "test set needs 11 speaker.* only 10"),
        (replace(EASY, dev_speakers=10), ClientsConfig(), "dev set needs 10 speaker.* only 9"),
        (EASY, ClientsConfig(3, Deal.group, group_by=GroupBy.age), "group_by=age.* 7 speakers"),
        (EASY, ClientsConfig(min_seconds=71), "min_seconds=71 .* 70.0 s"),
        (EASY, ClientsConfig(deal=Deal.dirichlet), "deal=dirichlet needs .*count"),
        (EASY, ClientsConfig(0), "count=0"),
        (EASY, ClientsConfig(3, Deal.dirichlet, alpha=0.0), "alpha=0"),
        (EASY, ClientsConfig(min_seconds=-1), "min_seconds=-1"),
        (EASY, ClientsConfig(dev_fraction=1.0), "dev_fraction=1"),
        (EASY, ClientsConfig(dev_min_utterances=1), "dev_min_utterances=1"),
        (replace(EASY, warm_up_speakers=-1), ClientsConfig(), "warm_up_speakers=-1"),
        (replace(EASY, warm_up_hours=float("nan")), ClientsConfig(), "warm_up_hours=nan"),
        (replace(EASY, test_speakers=0), ClientsConfig(), "test_speakers=0"),
        (replace(EASY, dev_share=1.5), ClientsConfig(), "dev_share=1.5"),
        (
            replace(EASY, warm_up_speakers=None),
            ClientsConfig(),
            "warm_up_speakers .*warm_up_hours or warm_up_file",
        ),
        (replace(EASY, warm_up_file="list.txt"), ClientsConfig(), "warm_up_file lists all"),
        (PartsConfig(warm_up_file="no/such/list.txt"), ClientsConfig(), "no/such/list.txt"),
    ],
)
def test_impossible_demands_are_refused_with_numbers(parts, clients, message):
    with pytest.raises(UserError, match=message):
        partition_speakers(equal_speakers(10), parts, clients, seed=0)


def test_where_clients_are_elsewhere_nobody_has_to_be_left_for_them(tmp_path):
    """The server's parts are those of the whole corpus, whether or not the clients' speech lies here too."""
    whole = equal_speakers(6)
    parts = PartsConfig(warm_up_speakers=1, held_out_speakers=1, dev_speakers=1, test_speakers=1)
    full = partition_speakers(whole, parts, ClientsConfig(), 3)
    kept = {u.speaker for part in full.server_parts.values() for u in part}
    split = {u.speaker: name for name in ("dev", "test") for u in full.server_parts[name]}
    here = [replace(u, split=split.get(u.speaker, "")) for u in whole if u.speaker in kept]
    (tmp_path / "warm_up.txt").write_text(full.warm_up[0].speaker)
    listed = str(tmp_path / "warm_up.txt")
    parts = PartsConfig(held_out_speakers=1, warm_up_file=listed)
    with pytest.raises(UserError, match="No speaker is left"):
        partition_speakers(here, parts, ClientsConfig(count=3), 3)
    server = partition_speakers(here, parts, ClientsConfig(count=3), 3, clients_elsewhere=True)
    assert server.clients == ()
    for name, part in server.server_parts.items():
        assert [u.id for u in part] == [u.id for u in full.server_parts[name]]
    write_partition(server, tmp_path)
    assert read_partition(tmp_path) == server and "0 clients" in describe(server)


def test_an_empty_manifest_and_repeated_ids_are_refused():
    with pytest.raises(UserError, match="no utterance"):
        partition_speakers([], EASY, ClientsConfig(), seed=0)
    with pytest.raises(UserError, match="twice"):
        partition_speakers(equal_speakers(5) + equal_speakers(1), EASY, ClientsConfig(), seed=0)


def test_files_of_a_partition(tmp_path):
    utterances = corpus({f"s{i}": [3600.0 * 2**i] for i in range(3)} | {"d": [1.0], "t": [1.0, 1.0]})
    utterances = [replace(u, split={"d": "dev", "t": "test"}.get(u.speaker, "")) for u in utterances]
    partition = partition_speakers(utterances, PartsConfig(warm_up_speakers=0), ClientsConfig(), seed=0)
    write_partition(partition, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["clients.csv", "partition.csv", "summary.json"]

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary == summarise(partition)
    assert summary["parts"]["clients"] == {"speakers": 3, "utterances": 3, "hours": pytest.approx(7)}
    assert summary["parts"]["test"] == {"speakers": 1, "utterances": 2, "hours": pytest.approx(2 / 3600)}
    # Hours 1, 2, 4: mean absolute difference of all pairs 12/9, halved, over the mean 7/3.
    assert summary["clients"]["hours"] == {"min": 1, "median": 2, "max": 4, "gini": pytest.approx(2 / 7)}

    with (folder / "partition.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["ID", "duration", "wav", "spk_id", "wrd"]
    places = {row["spk_id"]: (row["part"], row["client"], row["subset"]) for row in rows}
    assert places["t"] == ("test", "", "") and places["s2"] == ("client", "client_0002", "train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",client,client_0000,train", ",clients,client_0000,train", "line .*'clients'"),
        (",client,client_0000,train", ",dev,,", "is in .* and also in "),
        (",client,client_0000,train", ",client,client_0001,train", "is in client_000. and also in "),
        (",client,client_0000,train", ",client,client_0000,dev", "client_0000 has nothing to train on"),
        ("part,client,subset", "part,client,something", "subset missing"),
    ],
)
def test_a_damaged_partition_is_refused(tmp_path, old, new, message):
    partition = partition_speakers(equal_speakers(5), EASY, ClientsConfig(), seed=0)
    write_partition(partition, tmp_path)
    path = tmp_path / "partition.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    # Only the first row where the edit would move a whole speaker.
    times = -1 if new.endswith(("_0000,train", "_0000,dev")) else 1
    path.write_text(text.replace(old, new, times), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_partition(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\r\n", "\r\n\r\n"),  # all that follows is elsewhere
        (",client,client_0000,train", ",client,client_0001,train"),
        (",client,client_0000,train", ",dev,,"),
        ("client_0000,train", "client_0000,tests"),
        ("part,client,subset", "part,owner,subset"),
        ("hello", "hell"),
    ],
)
def test_a_client_whose_rows_have_moved_is_refused(tmp_path, old, new):
    speech = [replace(utterance, text="hello, you") for utterance in equal_speakers(5)]
    partition = partition_speakers(speech, EASY, ClientsConfig(), seed=0)
    write_partition(partition, tmp_path)
    rows = read_client_rows(tmp_path)
    path = tmp_path / "partition.csv"
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(UserError, match=r"has changed since clients\.csv"):
        read_client(tmp_path, rows["client_0000"])


def test_a_missing_partition_is_named(tmp_path):
    with pytest.raises(UserError, match=r"partition\.csv"):
        read_partition(Path(tmp_path) / "nowhere")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5.0], 0),
        ([2, 2, 2], 0),
        ([0, 0, 0], 0),
        ([0, 0, 0, 8], 3 / 4),
        ([1, 2, 3, 4], 1 / 4),
        ([3, 1], 1 / 4),
    ],
)
def test_gini_of_known_values(values, expected):
    assert gini(values) == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=20))
@settings(derandomize=True)
def test_gini_is_half_the_relative_mean_absolute_difference(values):
    mean = fsum(values) / len(values)
    pairs = fsum(abs(x - y) for x in values for y in values) / len(values) ** 2
    assert gini(values) == pytest.approx(pairs / (2 * mean), abs=1e-9)


def test_spread_of_an_even_number_of_values():
    assert spread([4, 1, 3, 2]) == {"min": 1, "median": 2.5, "max": 4, "gini": 0.25}


@pytest.mark.parametrize("seconds", [[300.0], [60.0] * 5, [1.0] * 500 + [1e5], [3600.0 * i for i in range(1, 2000)]])
def test_histogram_of_any_shape(tmp_path, seconds):
    draw_histogram(tmp_path / "clients.png", seconds)
    assert (tmp_path / "clients.png").read_bytes().startswith(PNG)
    assert len(list(tmp_path.iterdir())) == 1


def test_configs_are_a_typed_schema():
    loaded = OmegaConf.to_object(
        OmegaConf.merge(
            OmegaConf.create({"parts": {}, "clients": {}}),
            {"parts": OmegaConf.structured(PartsConfig(warm_up_speakers=117, warm_up_rule=WarmUpRule.random))},
            {"clients": OmegaConf.structured(ClientsConfig(10, Deal.group, group_by=GroupBy.gender))},
        )
    )
    assert loaded["parts"] == PartsConfig(warm_up_speakers=117, warm_up_rule=WarmUpRule.random)
    assert loaded["clients"] == ClientsConfig(10, Deal.group, group_by=GroupBy.gender)
    # The names of the members are what a person writes in a configuration.
    for choices in (WarmUpRule, Deal, GroupBy, TooSmall):
        assert all(choice.name == choice.value for choice in choices)
