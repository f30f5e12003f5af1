"""Deal speakers to clients: one client per speaker, equal hours, unequal hours, or by a group such as accent."""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from hashlib import blake2b
from math import fsum

import numpy as np

from asr_fed.config.schema import ClientsConfig, Deal, TooSmall
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client
from asr_fed.data.ranking import load, ranked
from asr_fed.system.errors import UserError

# A bin is a list of speakers that become one client; a family is a list of bins that are merged with each other first.
Bin = list[str]
Family = list[Bin]


def deal_speakers(
    speakers: list[str],
    by_speaker: Mapping[str, list[Utterance]],
    clients: ClientsConfig,
    seed: int,
) -> tuple[list[Client], list[str]]:
    """The clients, and the speakers who are left out because their clients would be too small.

    Raises UserError where `clients` asks for more clients, or more speech in each, than there is.
    """
    seconds = {speaker: fsum(u.duration for u in by_speaker[speaker]) for speaker in speakers}
    families = _deal(speakers, by_speaker, seconds, clients, seed)
    if clients.too_small is TooSmall.merge:
        families = [_merge_small(family, seconds, clients.min_seconds) for family in families]
    bins = [own for family in families for own in family]
    if clients.too_small is TooSmall.merge:
        bins = _merge_small(bins, seconds, clients.min_seconds)
    kept = [own for own in bins if load(own, seconds) >= clients.min_seconds]
    if not kept:
        largest = max(load(own, seconds) for own in bins)
        raise UserError(
            f"min_seconds={clients.min_seconds:g} leaves no client: the largest of {len(bins)} holds "
            f"{largest:.1f} s, and all {len(speakers)} speakers together {load(speakers, seconds):.1f} s. Lower it."
        )

    kept = sorted(sorted(own) for own in kept)
    width = max(4, len(str(len(kept) - 1)))
    made = []
    for number, own in enumerate(kept):
        utterances = tuple(utterance for speaker in own for utterance in by_speaker[speaker])
        made.append(make_client(f"client_{number:0{width}}", utterances, clients, seed))
    return made, sorted(set(speakers).difference(*kept))


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
    # Ranked before sorting by audio: the seed decides among equal speakers.
    largest_first = ranked(speakers, seed, "deal")
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
    """Each speaker goes to the bin with the least audio so far. Two bins differ by at most the smallest speaker of the
    larger bin."""
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
    """Shares of the hours ~ Dirichlet(alpha, ..., alpha); a speaker goes to the bin that is furthest below its
    share."""
    entropy = int.from_bytes(blake2b(f"{seed}/dirichlet".encode(), digest_size=16).digest())
    shares = sorted(np.random.default_rng(entropy).dirichlet([alpha] * count).tolist())
    total = load(largest_first, seconds)
    # No bin stays empty, however small its share: first each bin gets one of the smallest speakers.
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
    """The speaker's most frequent non-empty entry (alphabetically first among equals), or empty."""
    entries = [entry for utterance in own if (entry := getattr(utterance, column))]
    return min(set(entries), key=lambda entry: (-entries.count(entry), entry), default="")


def _deal_groups(
    largest_first: list[str], seconds: Mapping[str, float], count: int, group_of: Mapping[str, str]
) -> list[Family]:
    """One family of bins per group; speakers of unknown group form a group, too.

    With more bins than groups, each further bin goes to the group with the most audio per bin (the D'Hondt rule), but
    no group gets more bins than speakers. With fewer bins, whole groups share bins, balanced in hours.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for speaker in largest_first:
        members[group_of[speaker]].append(speaker)
    audio = {group: load(own, seconds) for group, own in members.items()}
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
    """Merge bins below the minimum, smallest first, until each sum reaches it.

    What is left over is merged into the smallest bin that is large enough; a single bin may stay too small.
    """

    def by_load(speakers: Bin) -> tuple[float, Bin]:
        return load(speakers, seconds), sorted(speakers)

    large = [speakers for speakers in bins if load(speakers, seconds) >= min_seconds]
    together: Bin = []
    for speakers in sorted((speakers for speakers in bins if load(speakers, seconds) < min_seconds), key=by_load):
        together = together + speakers
        if load(together, seconds) >= min_seconds:
            large.append(together)
            together = []
    if together:
        lightest = min(large, key=by_load, default=[])
        large = [speakers for speakers in large if speakers is not lightest] + [lightest + together]
    return large


def make_client(name: str, utterances: tuple[Utterance, ...], clients: ClientsConfig, seed: int) -> Client:
    """A client with its own dev part. The same utterances in the same order give the same client anywhere."""
    count = 0
    if clients.dev_fraction > 0 and len(utterances) >= clients.dev_min_utterances:
        count = min(max(1, round(clients.dev_fraction * len(utterances))), len(utterances) - 1)
    chosen = set(ranked((utterance.id for utterance in utterances), seed, "client_dev")[:count])
    return Client(
        id=name,
        train=tuple(utterance for utterance in utterances if utterance.id not in chosen),
        dev=tuple(utterance for utterance in utterances if utterance.id in chosen),
    )
