"""Who holds which speech: warm-up, clients, server held-out, dev and test, always disjoint by speaker.

Every choice is made by rank: a speaker's rank is a hash of the seed, the purpose and the speaker's id. So a
partition depends neither on the order of the manifest nor on a generator's version, and a new speaker in
the corpus does not reshuffle the others' ranks.
"""

import csv
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from asr_fed.config.check import check_clients, check_parts
from asr_fed.config.schema import ClientsConfig, Deal, PartsConfig, TooSmall, WarmUpRule
from asr_fed.data.identity import identity
from asr_fed.data.manifest import COLUMNS, Utterance, hours, read_utterances
from asr_fed.data.text_file import read_lines
from asr_fed.reporting.partition_report import draw_histogram, spread
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing


@dataclass(frozen=True)
class Client:
    """One data owner, a speaker or an institution with many; `train` is never empty, `dev` may be."""

    id: str
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", identity(self.id))

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        return self.train + self.dev

    @property
    def speakers(self) -> tuple[str, ...]:
        """Sorted ids of its speakers."""
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    @property
    def seconds(self) -> float:
        """Audio of train and dev together."""
        return fsum(utterance.duration for utterance in self.utterances)


@dataclass(frozen=True)
class Partition:
    """The whole corpus, each utterance in one place; tuples are sorted by speaker and id, clients by id.

    `dropped` holds what no part uses, by reason: `other_split` (a speaker of test, or of dev, has
    utterances outside it), `too_long` (above `max_train_seconds`), `too_small` (the client had less
    than `min_seconds`), `too_many_tokens` and `nothing_to_train_on` (`asr_fed.data.alignable`).
    """

    warm_up: tuple[Utterance, ...]
    held_out: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    clients: tuple[Client, ...]
    dropped: Mapping[str, tuple[Utterance, ...]] = field(default_factory=dict)

    @property
    def server_parts(self) -> dict[str, tuple[Utterance, ...]]:
        """The parts that belong to no client, by name."""
        return {"warm_up": self.warm_up, "held_out": self.held_out, "dev": self.dev, "test": self.test}

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """Everything that was partitioned, dropped or not."""
        owned = (utterance for client in self.clients for utterance in client.utterances)
        kept = (utterance for part in self.server_parts.values() for utterance in part)
        return (*kept, *owned, *(utterance for part in self.dropped.values() for utterance in part))


# A bin is the list of speakers that will make one client; a family is bins that merge with each other first.
Bin = list[str]
Family = list[Bin]


def partition_speakers(
    utterances: Iterable[Utterance],
    parts: PartsConfig,
    clients: ClientsConfig,
    seed: int,
    *,
    clients_elsewhere: bool = False,
) -> Partition:
    """Divide a corpus by speaker; the same for any order of `utterances`.

    With `clients_elsewhere` no speaker has to be left for clients: they may hold speech that is not here.

    A speaker whose utterances carry several splits goes wholly to one part, test before dev before
    training; the speaker's other utterances are dropped (`Partition.dropped["other_split"]`).

    Raises UserError where the configuration contradicts itself or asks for more than the corpus holds. Only
    `parts.warm_up_file` is read from disk.
    """
    check_parts(parts)
    check_clients(clients)
    dropped: dict[str, tuple[Utterance, ...]] = {}
    by_speaker, split_of, outside = _resolve_splits(utterances)
    if outside:
        dropped["other_split"] = tuple(outside)
    if parts.max_train_seconds is not None:
        dropped |= _drop_long(by_speaker, split_of, parts.max_train_seconds)
    seconds = {speaker: fsum(u.duration for u in own) for speaker, own in by_speaker.items()}

    def gather(speakers: Iterable[str]) -> tuple[Utterance, ...]:
        return tuple(utterance for speaker in sorted(speakers) for utterance in by_speaker[speaker])

    # Test is settled first, then dev: other demands on the same corpus leave them as they are.
    pool = [speaker for speaker in by_speaker if split_of[speaker] == "train"]
    listed = _listed_speakers(parts.warm_up_file, split_of) if parts.warm_up_file else None
    free = _without(pool, listed or [])
    test = [speaker for speaker in by_speaker if split_of[speaker] == "test"]
    if not test:
        room = parts.test_share * _load(pool, seconds)
        test = _draw_evaluation("test", free, seconds, parts.test_speakers, room, seed)
        free = _without(free, test)
    dev = [speaker for speaker in by_speaker if split_of[speaker] == "dev"]
    if not dev:
        room = parts.dev_share * _load(pool, seconds)
        dev = _draw_evaluation("dev", free, seconds, parts.dev_speakers, room, seed)
        free = _without(free, dev)
    warm_up = _choose_warm_up(free, seconds, parts, seed) if listed is None else listed
    free = _without(free, warm_up)
    if parts.held_out_speakers > len(free):
        raise UserError(
            f"held_out_speakers={parts.held_out_speakers}, but test ({len(test)}), dev ({len(dev)}) and "
            f"warm-up ({len(warm_up)}) leave only {len(free)} of {len(by_speaker)} speakers. Ask for fewer."
        )
    held_out = _ranked(free, seed, "held_out")[: parts.held_out_speakers]
    free = _without(free, held_out)

    taken = (
        f"of {len(by_speaker)} speakers {len(test)} are test, {len(dev)} dev, {len(warm_up)} warm-up and "
        f"{len(held_out)} held-out"
    )
    if not free and clients_elsewhere:
        return Partition(gather(warm_up), gather(held_out), gather(dev), gather(test), (), dropped)
    if not free:
        raise UserError(f"No speaker is left for the clients: {taken}. Ask for fewer there.")
    if clients.count is not None and clients.count > len(free):
        raise UserError(
            f"count={clients.count} clients, but only {len(free)} speaker(s) are left for them: {taken}. "
            f"Lower count to {len(free)} or less."
        )
    families = _deal(free, by_speaker, seconds, clients, seed)
    if clients.too_small is TooSmall.merge:
        families = [_merge_small(family, seconds, clients.min_seconds) for family in families]
    bins = [speakers for family in families for speakers in family]
    if clients.too_small is TooSmall.merge:
        bins = _merge_small(bins, seconds, clients.min_seconds)
    kept = [speakers for speakers in bins if _load(speakers, seconds) >= clients.min_seconds]
    if not kept:
        largest = max(_load(speakers, seconds) for speakers in bins)
        raise UserError(
            f"min_seconds={clients.min_seconds:g} leaves no client: the largest of {len(bins)} holds "
            f"{largest:.1f} s, and all {len(free)} speakers together {_load(free, seconds):.1f} s. Lower it."
        )
    if len(kept) < len(bins):
        dropped["too_small"] = gather(set(free).difference(*kept))

    kept = sorted(sorted(speakers) for speakers in kept)
    width = max(4, len(str(len(kept) - 1)))
    return Partition(
        warm_up=gather(warm_up),
        held_out=gather(held_out),
        dev=gather(dev),
        test=gather(test),
        clients=tuple(
            make_client(f"client_{i:0{width}}", gather(speakers), clients, seed) for i, speakers in enumerate(kept)
        ),
        dropped=dropped,
    )


def summarise(partition: Partition) -> dict[str, Any]:
    """Speakers, utterances and hours of every part, and their spread over the clients, in JSON types."""

    def size(utterances: Sequence[Utterance]) -> dict[str, float]:
        return {
            "speakers": len({utterance.speaker for utterance in utterances}),
            "utterances": len(utterances),
            "hours": hours(utterances),
        }

    clients = partition.clients
    amounts: dict[str, list[float]] = {
        "speakers": [len(client.speakers) for client in clients],
        "utterances": [len(client.utterances) for client in clients],
        "hours": [client.seconds / 3600 for client in clients],
    }
    everyone = [utterance for client in clients for utterance in client.utterances]
    return {
        "parts": {
            **{name: size(part) for name, part in partition.server_parts.items()},
            "clients": size(everyone),
        },
        "clients": {
            "count": len(clients),
            "with_own_dev": sum(bool(client.dev) for client in clients),
            **({name: spread(values) for name, values in amounts.items()} if clients else {}),
        },
        "dropped": {reason: size(utterances) for reason, utterances in partition.dropped.items()},
    }


def describe(partition: Partition) -> str:
    """One line: hours and speakers of each part."""
    parts = {**partition.server_parts, "clients": [u for client in partition.clients for u in client.utterances]}
    text = ", ".join(
        f"{name.replace('_', '-')} {hours(part):.2f} h ({len({u.speaker for u in part})} speakers)"
        for name, part in parts.items()
    )
    return f"{text}; {len(partition.clients)} clients"


def write_partition(partition: Partition, folder: str | Path) -> None:
    """Write `summary.json`, `clients.png` (audio per client) and `partition.csv` to `folder`.

    `partition.csv` is the manifest with three more columns: `part` (warm_up, held_out, dev, test, client or
    dropped), `client` (its id), `subset` (train or dev of a client; the reason why dropped). Each file
    appears whole or not at all, and partition.csv last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = json.dumps(summarise(partition), indent=2) + "\n"
    with replacing(folder / "summary.json") as temporary:
        temporary.write_text(summary, encoding="utf-8")
    if partition.clients:
        draw_histogram(folder / "clients.png", [client.seconds for client in partition.clients])

    with replacing(folder / "partition.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "part", "client", "subset"])

        def write(utterances: Sequence[Utterance], *place: str) -> None:
            # csv writes a float so that it reads back the same, which the four digits of a manifest do not.
            writer.writerows([*(getattr(u, name) for name in COLUMNS.values()), *place] for u in utterances)

        for part, utterances in partition.server_parts.items():
            write(utterances, part, "", "")
        for client in partition.clients:
            write(client.train, "client", client.id, "train")
            write(client.dev, "client", client.id, "dev")
        for reason, utterances in partition.dropped.items():
            write(utterances, "dropped", "", reason)


def read_partition(folder: str | Path) -> Partition:
    """Read `partition.csv` of `folder`: the same object that was written.

    Raises UserError where the file is missing or damaged, or where a speaker stands in two parts or clients
    (as an edit by hand may bring about).
    """
    path = Path(folder) / "partition.csv"
    if not path.is_file():
        raise UserError(f"There is no partition at {path}. Make it anew from the manifest.")
    parts: dict[str, list[Utterance]] = {"warm_up": [], "held_out": [], "dev": [], "test": []}
    clients: defaultdict[str, dict[str, list[Utterance]]] = defaultdict(lambda: {"train": [], "dev": []})
    dropped: defaultdict[str, list[Utterance]] = defaultdict(list)
    home: dict[str, str] = {}
    for utterance, row, where in read_utterances(path, ("part", "client", "subset")):
        part, client, subset = row["part"], identity(row["client"]), row["subset"]
        if part == "dropped" and subset:
            dropped[subset].append(utterance)
            continue
        if part == "client" and client and subset in ("train", "dev"):
            clients[client][subset].append(utterance)
        elif part in parts:
            parts[part].append(utterance)
        else:
            raise UserError(
                f"{where}: part {part!r}, client {client!r}, subset {subset!r} is no place for an "
                f"utterance; part is one of {', '.join(parts)}, client (with its id and train or dev) "
                "and dropped (with a reason)."
            )
        place = client if part == "client" else part
        if home.setdefault(utterance.speaker, place) != place:
            raise UserError(
                f"{where}: speaker {utterance.speaker!r} is in {place} and also in "
                f"{home[utterance.speaker]}; a speaker belongs to one part or client only."
            )
    for name, subsets in clients.items():
        if not subsets["train"]:
            raise UserError(f"{path}: {name} has nothing to train on. Make the partition anew.")
    return Partition(
        **{name: tuple(own) for name, own in parts.items()},
        clients=tuple(Client(name, tuple(own["train"]), tuple(own["dev"])) for name, own in clients.items()),
        dropped={reason: tuple(own) for reason, own in dropped.items()},
    )


def _resolve_splits(
    utterances: Iterable[Utterance],
) -> tuple[dict[str, list[Utterance]], dict[str, str], list[Utterance]]:
    """Utterances by speaker, each speaker's one split (test, dev or train), and the utterances outside it."""
    ordered = sorted(utterances, key=lambda u: (u.speaker, u.id))
    if not ordered:
        raise UserError("The manifest holds no utterance: there is nothing to partition.")
    if len({utterance.id for utterance in ordered}) < len(ordered):
        raise UserError("An utterance ID occurs twice. Give the corpora that you join different IDs.")
    everything: defaultdict[str, list[tuple[str, Utterance]]] = defaultdict(list)
    for utterance in ordered:
        split = utterance.split.strip().lower()
        everything[utterance.speaker].append((split if split in ("dev", "test") else "train", utterance))
    by_speaker: dict[str, list[Utterance]] = {}
    split_of: dict[str, str] = {}
    outside: list[Utterance] = []
    for speaker, own in everything.items():
        splits = {split for split, _ in own}
        chosen = next(split for split in ("test", "dev", "train") if split in splits)
        split_of[speaker] = chosen
        by_speaker[speaker] = [utterance for split, utterance in own if split == chosen]
        outside += [utterance for split, utterance in own if split != chosen]
    return by_speaker, split_of, outside


def _drop_long(
    by_speaker: dict[str, list[Utterance]], split_of: Mapping[str, str], most: float
) -> dict[str, tuple[Utterance, ...]]:
    """Take utterances of more than `most` seconds out of the training pool, in place; returns them, if any."""
    long: list[Utterance] = []
    for speaker in [speaker for speaker in by_speaker if split_of[speaker] == "train"]:
        long += [utterance for utterance in by_speaker[speaker] if utterance.duration > most]
        by_speaker[speaker] = [utterance for utterance in by_speaker[speaker] if utterance.duration <= most]
        if not by_speaker[speaker]:
            del by_speaker[speaker]
    return {"too_long": tuple(long)} if long else {}


def _ranked(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """The names in a random order that the seed fixes, independent of the order in which they come."""

    def rank(name: str) -> tuple[bytes, str]:
        return blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest(), name

    return sorted(names, key=rank)


def _without(speakers: list[str], taken: Iterable[str]) -> list[str]:
    gone = set(taken)
    return [speaker for speaker in speakers if speaker not in gone]


def _load(speakers: Iterable[str], seconds: Mapping[str, float]) -> float:
    return fsum(seconds[speaker] for speaker in speakers)


def _draw_evaluation(
    part: str, free: list[str], seconds: Mapping[str, float], count: int | None, room: float, seed: int
) -> list[str]:
    """`count` speakers for dev or test; where it is None those who, as drawn, fit into `room` seconds."""
    if len(free) < (count or 1):
        raise UserError(
            f"The {part} set needs {count or 1} speaker(s), but only {len(free)} are free: the corpus has no "
            f"{part} split of its own. Lower {part}_speakers, or add speakers."
        )
    ranked = _ranked(free, seed, part)
    if count is not None:
        return ranked[:count]
    chosen = []
    for speaker in ranked:
        if seconds[speaker] <= room:
            chosen.append(speaker)
            room -= seconds[speaker]
    return chosen or [min(ranked, key=seconds.__getitem__)]


def _listed_speakers(path: str, split_of: Mapping[str, str]) -> list[str]:
    try:
        listed = sorted({identity(line) for line in read_lines(path)})
    except UserError as error:
        raise UserError(f"warm_up_file: {error} It should list one speaker id a line.") from None
    unknown = [speaker for speaker in listed if speaker not in split_of]
    if unknown:
        raise UserError(
            f"warm_up_file={path}: {len(unknown)} of {len(listed)} speakers are not in the manifest, "
            f"such as {', '.join(unknown[:3])}."
        )
    evaluated = [speaker for speaker in listed if split_of[speaker] != "train"]
    if evaluated:
        raise UserError(
            f"warm_up_file={path}: {len(evaluated)} of {len(listed)} speakers belong to the corpus's own dev "
            f"or test set, such as {', '.join(evaluated[:3])}. Take them off the list."
        )
    if not listed:
        raise UserError(f"warm_up_file={path} lists no speaker. For no warm-up set warm_up_speakers=0.")
    return listed


def _choose_warm_up(free: list[str], seconds: Mapping[str, float], parts: PartsConfig, seed: int) -> list[str]:
    speakers, wanted = parts.warm_up_speakers, parts.warm_up_hours
    ranked = _ranked(free, seed, "warm_up")
    if parts.warm_up_rule is not WarmUpRule.random:
        # The sort is stable, so equal amounts keep their random order.
        ranked.sort(key=seconds.__getitem__, reverse=parts.warm_up_rule is WarmUpRule.most_audio)
    chosen: list[str] = []
    held = 0.0
    while (speakers is None or len(chosen) < speakers) and (wanted is None or held < wanted * 3600):
        if len(chosen) == len(ranked):
            demand = [
                f"{name}={value:g}"
                for name, value in (("warm_up_speakers", speakers), ("warm_up_hours", wanted))
                if value is not None
            ]
            raise UserError(
                f"{', '.join(demand)}: the {len(ranked)} speaker(s) that are neither dev nor test hold "
                f"{held / 3600:.2f} hours in all. Ask for less."
            )
        held += seconds[ranked[len(chosen)]]
        chosen.append(ranked[len(chosen)])
    return chosen


def _deal(
    speakers: list[str],
    by_speaker: Mapping[str, list[Utterance]],
    seconds: Mapping[str, float],
    clients: ClientsConfig,
    seed: int,
) -> list[Family]:
    count = clients.count
    if count is None:
        return [[[speaker] for speaker in speakers]]
    # Ranked before it is sorted by audio: the seed decides between equals.
    largest_first = _ranked(speakers, seed, "deal")
    largest_first.sort(key=seconds.__getitem__, reverse=True)
    if clients.deal is Deal.balanced:
        return [_deal_balanced(largest_first, seconds, count)]
    if clients.deal is Deal.dirichlet:
        return [_deal_dirichlet(largest_first, seconds, count, clients.alpha, seed)]
    group_of = {speaker: _group(by_speaker[speaker], clients.group_by.value) for speaker in speakers}
    if not any(group_of.values()):
        raise UserError(
            f"group_by={clients.group_by.value}, but the manifest does not know the {clients.group_by.value} "
            f"of any of the {len(speakers)} speakers left for clients. Use deal=balanced or another column."
        )
    return _deal_groups(largest_first, seconds, count, group_of)


def _deal_balanced(largest_first: list[str], seconds: Mapping[str, float], count: int) -> Family:
    """Each speaker to the lightest bin so far: bins differ by at most the lightest speaker of the heavier."""
    bins: Family = [[] for _ in range(count)]
    loads = [(0.0, i) for i in range(count)]
    for speaker in largest_first:
        load, i = loads[0]
        bins[i].append(speaker)
        heapq.heapreplace(loads, (load + seconds[speaker], i))
    return bins


def _deal_dirichlet(
    largest_first: list[str], seconds: Mapping[str, float], count: int, alpha: float, seed: int
) -> Family:
    """Shares of the hours ~ Dirichlet(alpha, ..., alpha); a speaker goes to the bin that lacks most."""
    entropy = int.from_bytes(blake2b(f"{seed}/dirichlet".encode(), digest_size=16).digest())
    shares = sorted(np.random.default_rng(entropy).dirichlet([alpha] * count).tolist())
    total = _load(largest_first, seconds)
    # Nobody goes empty, however small the share: the lightest speakers are dealt one to each bin beforehand.
    lightest = largest_first[::-1][:count]
    bins: Family = [[speaker] for speaker in lightest]
    surplus = [(seconds[lightest[i]] - shares[i] * total, i) for i in range(count)]
    heapq.heapify(surplus)
    for speaker in largest_first[: len(largest_first) - count]:
        over, i = surplus[0]
        bins[i].append(speaker)
        heapq.heapreplace(surplus, (over + seconds[speaker], i))
    return bins


def _group(own: list[Utterance], column: str) -> str:
    """The speaker's most frequent entry that is not empty (the first by alphabet among equals), or empty."""
    entries = [entry for utterance in own if (entry := getattr(utterance, column))]
    return min(set(entries), key=lambda entry: (-entries.count(entry), entry), default="")


def _deal_groups(
    largest_first: list[str], seconds: Mapping[str, float], count: int, group_of: Mapping[str, str]
) -> list[Family]:
    """A family of bins a group; speakers of unknown group are a group too.

    With more bins than groups, each further bin goes to the group with most audio a bin (the D'Hondt
    rule), never more than the group has speakers. With fewer, whole groups share bins, balanced in hours.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for speaker in largest_first:
        members[group_of[speaker]].append(speaker)
    audio = {group: _load(own, seconds) for group, own in members.items()}
    groups = sorted(members, key=lambda group: (-audio[group], group))
    if count < len(groups):
        bins = _deal_balanced(groups, audio, count)
        return [[[speaker for group in together for speaker in members[group]]] for together in bins]
    bins_of = dict.fromkeys(groups, 1)
    heaviest = [(-audio[group], group) for group in groups if len(members[group]) > 1]
    heapq.heapify(heaviest)
    for _ in range(count - len(groups)):
        _, group = heapq.heappop(heaviest)
        bins_of[group] += 1
        if bins_of[group] < len(members[group]):
            heapq.heappush(heaviest, (-audio[group] / bins_of[group], group))
    return [_deal_balanced(members[group], seconds, bins_of[group]) for group in groups]


def _merge_small(bins: Family, seconds: Mapping[str, float], min_seconds: float) -> Family:
    """Join bins below the minimum, lightest first, until each sum reaches it.

    What is left over joins the lightest bin that is large enough; a sole bin may stay too small.
    """

    def load(speakers: Bin) -> float:
        return _load(speakers, seconds)

    def by_load(speakers: Bin) -> tuple[float, Bin]:
        return load(speakers), sorted(speakers)

    large = [speakers for speakers in bins if load(speakers) >= min_seconds]
    together: Bin = []
    for speakers in sorted((speakers for speakers in bins if load(speakers) < min_seconds), key=by_load):
        together = together + speakers
        if load(together) >= min_seconds:
            large.append(together)
            together = []
    if together:
        lightest = min(large, key=by_load, default=[])
        large = [speakers for speakers in large if speakers is not lightest] + [lightest + together]
    return large


def make_client(name: str, utterances: tuple[Utterance, ...], clients: ClientsConfig, seed: int) -> Client:
    """A client with its own dev part; the same wherever it is made of the same utterances in the same order."""
    count = 0
    if clients.dev_fraction > 0 and len(utterances) >= clients.dev_min_utterances:
        count = min(max(1, round(clients.dev_fraction * len(utterances))), len(utterances) - 1)
    chosen = set(_ranked((utterance.id for utterance in utterances), seed, "client_dev")[:count])
    return Client(
        id=name,
        train=tuple(utterance for utterance in utterances if utterance.id not in chosen),
        dev=tuple(utterance for utterance in utterances if utterance.id in chosen),
    )
