"""Who reads which speech: every reading of the feature cache, with what was running and for which client."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import asr_fed
from asr_fed.data.features import FeatureCache

PACKAGE = str(Path(asr_fed.__file__).parent)


@dataclass
class Read:
    """One utterance's frames were read; `functions` of asr_fed were running, `client` is whom a worker did it for."""

    utterance: str
    functions: frozenset[str]
    client: str = ""


@dataclass
class Reads:
    """All readings of every cache of this process since `record`."""

    noted: list[Read] = field(default_factory=list)
    _told: int = 0

    def a_message_comes(self) -> None:
        """To a worker: what is read from now on is for the client that it tells of next."""
        self._told = len(self.noted)

    def a_client_is_done(self, client: str) -> None:
        for read in self.noted[self._told :]:
            read.client = client
        self._told = len(self.noted)

    def by_stage(self, stages: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
        """Ids of utterances by stage: the first of `stages` all of whose functions were running, or `elsewhere`.

        The stage of what was read for a client ends in its name.
        """
        found: dict[str, set[str]] = {}
        for read in self.noted:
            stage = next((name for name, own in stages.items() if read.functions.issuperset(own)), "elsewhere")
            found.setdefault(f"{stage} {read.client}".strip(), set()).add(read.utterance)
        return found


def record(monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads, really = Reads(), FeatureCache.__getitem__

    def noting(cache: FeatureCache, key: tuple[str, float]) -> np.ndarray:
        reads.noted.append(Read(key[0], running()))
        return really(cache, key)

    monkeypatch.setattr(FeatureCache, "__getitem__", noting)
    return reads


def running() -> frozenset[str]:
    """Names of the functions of asr_fed on the stack."""
    names, frame = set(), sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.add(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return frozenset(names)
