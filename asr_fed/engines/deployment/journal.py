"""All that a node was asked and has sent, as lines of JSON of which each holds the hash of the one before.

Who changes, removes or inserts a line later breaks the chain, unless all lines behind it are made again; note the last
hash elsewhere from time to time to see that too.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_fed.system.errors import UserError

JOURNAL = "journal.jsonl"  # in a node's folder
START = "0" * 64
BLOCK = 1 << 16  # bytes that are read at a time, from the end


@dataclass
class Journal:
    path: Path

    def add(self, event: str, **what: Any) -> None:
        """Append an event; `what` is made of texts and numbers."""
        last = self._last_line()
        previous = _hash(last.decode().removesuffix("\n")) if last else START
        entry = {"time": round(time.time(), 3), "event": event, **what, "previous": previous}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * (last[-1:] not in (b"", b"\n")) + json.dumps(entry, ensure_ascii=True) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All events, the first one first. Raises UserError where the chain is broken."""
        entries, previous = [], START
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = json.loads(line)
            except ValueError:  # cut short with the power; the next line holds its hash all the same
                entry = {"event": "unreadable", "time": 0.0, "previous": previous}
            if not isinstance(entry, dict) or entry.get("previous") != previous:
                raise UserError(f"{self.path}, line {number}: the chain is broken: lines before it have been changed.")
            entries.append(entry)
            previous = _hash(line)
        return entries

    def rounds(self, setup: str) -> int:
        """How many orders of this setup have been worked on."""
        return sum(entry["event"] == "sent" and entry["setup"] == setup for entry in self.entries())

    def since(self, event: str, seconds: float) -> list[dict[str, Any]]:
        """Events of that kind in the last so many seconds."""
        start = time.time() - seconds
        return [entry for entry in self.entries() if entry["event"] == event and entry["time"] >= start]

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []

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


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
