"""What the virtual clock leaves for programs to read: a row for each client and round, and one for each round.

All times are seconds of the simulated fleet, none of this machine. One writer and one reader of each file.
"""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from asr_fed.data.text_file import read_table
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text

CLIENTS, ROUNDS = "simulation.csv", "simulation_rounds.csv"


@dataclass(frozen=True)
class ClientTime:
    """How one client spent one round.

    device: its class, such as the name of a phone.
    download_s, compute_s, upload_s: seconds until it had answered, or until it was given up.
    idle_s: seconds from its answer until the round closed.
    bytes_down, bytes_up: what crossed its network, also where the answer came too late.
    arrived: whether its update counted.
    share_of_work: the part of a whole round's work that it did; 1 for all.
    start_s: when it was asked, by the fleet's clock.
    staleness: how many server steps were made between what it was sent and what it was added to; 0 in a round that
        waits for its cohort.
    """

    round: int
    client: str
    device: str
    download_s: float
    compute_s: float
    upload_s: float
    idle_s: float
    bytes_down: int
    bytes_up: int
    arrived: bool
    share_of_work: float
    start_s: float = 0.0
    staleness: int = 0

    @property
    def busy_s(self) -> float:
        return self.download_s + self.compute_s + self.upload_s


@dataclass(frozen=True)
class RoundTime:
    """One round by the fleet's clock.

    begin_s, end_s: from the end of the round before, or 0, to the end of the server's own work.
    server_s: the server's own work, once the last awaited client has answered.
    asked, arrived: clients.
    """

    round: int
    begin_s: float
    end_s: float
    server_s: float
    asked: int
    arrived: int


Record = TypeVar("Record", ClientTime, RoundTime)


def append_times(run_dir: Path, clients: Iterable[ClientTime], times: RoundTime) -> None:
    """Add a round to simulation.csv and simulation_rounds.csv."""
    _append(run_dir / CLIENTS, clients)
    _append(run_dir / ROUNDS, [times])


def forget_after(run_dir: Path, last_round: int) -> None:
    """Leave out the rounds after `last_round`, and a line that a kill has cut: the run repeats them."""
    for name in (CLIENTS, ROUNDS):
        path = run_dir / name
        if path.is_file():
            head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
            kept = [line for line in lines if line.endswith("\n") and int(line.partition(",")[0]) <= last_round]
            write_text(path, "".join([head, *kept]) if head.endswith("\n") else "")


def read_client_times(run_dir: Path) -> list[ClientTime]:
    """Nothing where the run had no virtual clock. Raises UserError for a row that cannot be read."""
    return _read(run_dir / CLIENTS, ClientTime)


def read_round_times(run_dir: Path) -> list[RoundTime]:
    """Nothing where the run had no virtual clock. Raises UserError for a row that cannot be read."""
    return _read(run_dir / ROUNDS, RoundTime)


def _append(path: Path, records: Iterable[ClientTime | RoundTime]) -> None:
    rows = [asdict(record) for record in records]
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)


def _read(path: Path, kind: type[Record]) -> list[Record]:
    if not path.is_file() or not path.stat().st_size:
        return []
    return [_parse(row, kind, f"{path}, line {line}") for line, row in read_table(path, [f.name for f in fields(kind)])]


def _parse(row: dict[str, str], kind: type[Record], where: str) -> Record:
    values: dict[str, Any] = {}
    for each in fields(kind):
        text = row[each.name]
        try:
            values[each.name] = text == "True" if each.type is bool else each.type(text)  # type: ignore[operator]
        except ValueError:
            raise UserError(f"{where}: {each.name} {text!r} is not a number.") from None
    return kind(**values)
