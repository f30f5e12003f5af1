"""All that a node was asked and has sent, as lines of JSON of which each holds the hash of the one before.

Who changes, removes or inserts a line later breaks the chain, unless all lines behind it are made again; note the last
hash elsewhere from time to time to see that too.
"""

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_fed.system.errors import UserError

JOURNAL = "journal.jsonl"  # in a node's folder
START = "0" * 64
DAY = 86400.0  # seconds
BLOCK = 1 << 16  # bytes that are read at a time, from the end


@dataclass(frozen=True)
class _Place:
    """Between two lines: how many bytes and lines lie before it, and the hash of the last of these."""

    bytes: int = 0
    lines: int = 0
    hash: str = START


@dataclass
class Journal:
    """Rounds and the events of the last day are kept as the file grows, so that an order costs the same after
    years."""

    path: Path
    _read: _Place = field(default=_Place(), init=False)
    _rounds: Counter[str] = field(default_factory=Counter, init=False)  # by setup
    _today: list[dict[str, Any]] = field(default_factory=list, init=False)

    def add(self, event: str, **what: Any) -> None:
        """Append an event; `what` is made of texts and numbers. Other processes may do so at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            last = self._last_line()
            previous = _hash(last.removesuffix(b"\n")) if last else START
            entry = {"time": round(time.time(), 3), "event": event, **what, "previous": previous}
            file.write("\n" * (last[-1:] not in (b"", b"\n")) + json.dumps(entry, ensure_ascii=True) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All events, the first one first. Raises UserError where the chain is broken."""
        return [entry for entry, _ in self._from(_Place())]

    def rounds(self, setup: str) -> int:
        """How many orders of this setup have been worked on. Raises UserError as `entries` does."""
        self._catch_up()
        return self._rounds[setup]

    def today(self, event: str) -> list[dict[str, Any]]:
        """Events of that kind in the last DAY. Raises UserError as `entries` does."""
        self._catch_up()
        return [entry for entry in self._today if entry["event"] == event]

    def _catch_up(self) -> None:
        """Read what has been added, or all again where the file has become shorter."""
        if self._size() < self._read.bytes:
            self._read, self._rounds, self._today = _Place(), Counter(), []
        since = time.time() - DAY
        self._today = [entry for entry in self._today if entry["time"] >= since]
        for entry, place in self._from(self._read):
            self._read = place
            if entry["event"] == "sent":
                self._rounds[entry["setup"]] += 1
            if entry["time"] >= since:
                self._today.append(entry)

    def _from(self, place: _Place) -> Iterator[tuple[dict[str, Any], _Place]]:
        """Each event behind `place`, and the place behind it. Raises UserError where the chain is broken."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(place.bytes)
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:  # cut short with the power; the next line holds its hash all the same
                    entry = {"event": "unreadable", "time": 0.0, "previous": place.hash}
                if not isinstance(entry, dict) or entry.get("previous") != place.hash:
                    raise UserError(
                        f"{self.path}, line {place.lines + 1}: the chain is broken: lines before it have been changed."
                    )
                text = line.removesuffix(b"\n")  # a line that was cut short gets its end from `add`
                place = _Place(place.bytes + len(text) + 1, place.lines + 1, _hash(text))
                yield entry, place

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _last_line(self) -> bytes:
        """With its end, unless it was cut short. Read from the end of the file: a node writes one for years."""
        if not self.path.is_file():
            return b""
        tail = b""
        with self.path.open("rb") as file:
            start = file.seek(0, os.SEEK_END)
            while start > 0 and b"\n" not in tail[:-1]:
                size = min(BLOCK, start)
                start -= size
                file.seek(start)
                tail = file.read(size) + tail
        return tail[tail.rfind(b"\n", 0, -1) + 1 :]


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
