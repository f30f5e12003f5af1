"""What an algorithm keeps for each client between rounds, on the disk of the client's owner. It is never sent."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint

GENERATIONS = 2  # kept per client: a killed server repeats the round that was running


class ClientStore:
    """Vectors and states of each client, by the round that wrote them.

    A round reads only what earlier rounds wrote. So a round that is repeated (after a kill, or because too few nodes
    answered) begins as it did the first time. Any worker may write and read: a client may change its worker.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, client: str, before: int) -> dict[str, Any]:
        """What the last round before round `before` kept; empty if there was none."""
        rounds = [number for number in self._rounds(client) if number < before]
        return dict(load_checkpoint(self._path(client, max(rounds)))) if rounds else {}

    def write(self, client: str, server_round: int, kept: Mapping[str, Any]) -> None:
        save_checkpoint(dict(kept), self._path(client, server_round))
        for number in self._rounds(client)[:-GENERATIONS]:
            self._path(client, number).unlink(missing_ok=True)

    def _home(self, client: str) -> Path:
        return self._folder / hashlib.sha256(client.encode()).hexdigest()[:32]  # an id need not be a valid file name

    def _path(self, client: str, server_round: int) -> Path:
        return self._home(client) / f"{server_round}.pt"

    def _rounds(self, client: str) -> list[int]:
        return sorted(int(path.stem) for path in self._home(client).glob("[0-9]*.pt"))
