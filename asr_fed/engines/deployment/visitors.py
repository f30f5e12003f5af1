"""Who comes to the proxy, for the terminal of the server's operator: read from its access.jsonl."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

AGAIN = 3600.0  # seconds after which the same refusal is told again: a node that waits tries every minute


@dataclass
class Visitors:
    """What the log `path` gains from now on."""

    path: Path
    _read: int = field(default=0, init=False)  # bytes
    _told: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._read = self._size()

    def news(self) -> Iterator[str]:
        """A line for each node that has come or gone, and for each new kind of refusal."""
        size = self._size()
        if size < self._read:  # it was rotated; what was written just before is told by nobody
            self._read = 0
        if size == self._read:
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines = file.read(size - self._read).splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):  # the rest of it comes later
                break
            self._read += len(line)
            yield from self._tell(json.loads(line))

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _tell(self, entry: dict[str, str | int]) -> Iterator[str]:
        node, peer, status = entry["node"], entry["peer"], entry["status"]
        name = str(entry["path"]).rpartition("/")[2]
        if status == 200:
            known = "a node" if node == "?" else node
            yield f"{known} connected from {peer}" if name == "activate-node" else f"{known} left"
            return
        who = peer if node == "?" else f"{node} at {peer}"
        text = f"{who} was turned away: {entry['reason'] or f'the SuperLink answers {status}'}"
        now = time.monotonic()
        if now - self._told.get(text, -AGAIN) >= AGAIN:
            self._told[text] = now
            if len(self._told) > 1000:  # strangers at many addresses
                self._told.clear()
            yield text
