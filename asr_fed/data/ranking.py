"""Random choices by rank: a name's rank is a hash of the seed, the purpose and the name.

So a choice depends neither on the order of names nor on the version of a random generator, and a new name does not
reshuffle the others.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import fsum


def ranked(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """The names in a random order that depends on the seed, and not on the order in which they are given."""

    def rank(name: str) -> tuple[bytes, str]:
        return blake2b(f"{seed}/{purpose}/{name}".encode(), digest_size=16).digest(), name

    return sorted(names, key=rank)


def without(speakers: list[str], taken: Iterable[str]) -> list[str]:
    gone = set(taken)
    return [speaker for speaker in speakers if speaker not in gone]


def load(speakers: Iterable[str], seconds: Mapping[str, float]) -> float:
    return fsum(seconds[speaker] for speaker in speakers)
