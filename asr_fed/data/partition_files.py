"""A partition on disk: partition.csv, summary.json with its sizes, and clients.csv, by which one client is read alone.

A worker trains some clients of many. It holds a line of clients.csv for each, and reads the utterances of a client from
partition.csv when it is to train it.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from math import fsum
from pathlib import Path
from typing import Any

from asr_fed.data.identity import identity
from asr_fed.data.manifest import COLUMNS, Utterance, hours, parse_utterances, read_utterances
from asr_fed.data.partition import Client, Partition
from asr_fed.data.spread import spread
from asr_fed.data.text_file import parse_table, read_lines, read_table
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_text

CLIENTS = "clients.csv"
WRONG = "wrong_transcripts.txt"  # ids of the clients that were corrupted for an experiment, one a line
PLACE = ("part", "client", "subset")


@dataclass(frozen=True, slots=True)
class ClientRows:
    """A line of clients.csv: how much speech a client has, and where its rows are in partition.csv, in bytes."""

    client: str
    examples: int
    train_seconds: float
    dev_seconds: float
    start: int
    bytes: int


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
    wrong = sorted(partition.wrong_transcripts)
    untranscribed = [utterance for utterance in everyone if not utterance.text]
    return {
        **({"clients_with_wrong_transcripts_on_purpose": wrong} if wrong else {}),
        "parts": {
            **{name: size(part) for name, part in partition.server_parts.items()},
            "clients": size(everyone),
        },
        "clients": {
            "count": len(clients),
            "with_own_dev": sum(bool(client.dev) for client in clients),
            **({"untranscribed": size(untranscribed)} if untranscribed else {}),
            **({name: spread(values) for name, values in amounts.items()} if clients else {}),
        },
        "dropped": {reason: size(utterances) for reason, utterances in partition.dropped.items()},
    }


def write_partition(partition: Partition, folder: str | Path) -> None:
    """Write `summary.json`, `clients.csv` and `partition.csv` to `folder`.

    Where clients have wrong transcripts on purpose, `wrong_transcripts.txt` lists them.

    `partition.csv` is the manifest with three more columns: `part` (warm_up, held_out, dev, test, client or dropped),
    `client` (its id), `subset` (train or dev of a client, or the reason for dropping). `clients.csv` has a line of
    `ClientRows` for each client. Each file is written whole or not at all, partition.csv last.
    """
    folder = Path(folder)
    wrong = "".join(f"{client}\n" for client in sorted(partition.wrong_transcripts))
    folder.mkdir(parents=True, exist_ok=True)
    if wrong:
        write_text(folder / WRONG, wrong)
    else:
        (folder / WRONG).unlink(missing_ok=True)
    write_text(folder / "summary.json", json.dumps(summarise(partition), indent=2) + "\n")
    with replacing(folder / "partition.csv") as temporary, temporary.open("wb") as file:
        file.write(_lines([[*COLUMNS, *PLACE]]))
        for part, utterances in partition.server_parts.items():
            file.write(_lines(_rows(utterances, part, "", "")))
        own = []
        for client in partition.clients:
            start = file.tell()
            file.write(_lines(_rows(client.train, "client", client.id, "train")))
            file.write(_lines(_rows(client.dev, "client", client.id, "dev")))
            train, dev = (fsum(utterance.duration for utterance in part) for part in (client.train, client.dev))
            own.append(ClientRows(client.id, len(client.train), train, dev, start, file.tell() - start))
        for reason, utterances in partition.dropped.items():
            file.write(_lines(_rows(utterances, "dropped", "", reason)))
        names = [each.name for each in fields(ClientRows)]
        with replacing(folder / CLIENTS) as clients_file:
            clients_file.write_bytes(_lines([names, *(astuple(each) for each in own)]))


def _rows(utterances: Sequence[Utterance], *place: str) -> Iterator[list[Any]]:
    # csv writes a float so that it reads back the same, which the four digits of a manifest do not.
    return ([*(getattr(u, name) for name in COLUMNS.values()), *place] for u in utterances)


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def read_client_rows(folder: Path) -> dict[str, ClientRows]:
    """The clients of a partition, by id, without their utterances. Raises UserError where they cannot be read."""
    names = [each.name for each in fields(ClientRows)]
    return {
        row["client"]: ClientRows(
            row["client"],
            int(row["examples"]),
            float(row["train_seconds"]),
            float(row["dev_seconds"]),
            int(row["start"]),
            int(row["bytes"]),
        )
        for _, row in read_table(folder / CLIENTS, names)
    }


def read_client(folder: Path, rows: ClientRows) -> Client:
    """One client of `partition.csv`: the same object that was written.

    Raises UserError where its rows are not there any more: the file was written to since.
    """
    path = folder / "partition.csv"
    with path.open("rb") as file:
        header = file.readline()
        file.seek(rows.start)
        lines = (header + file.read(rows.bytes)).decode("utf-8", "replace")
    changed = UserError(f"{path} has changed since {CLIENTS} was written beside it: make the partition again.")
    subsets: dict[str, list[Utterance]] = {"train": [], "dev": []}
    table = parse_table(io.StringIO(lines, ""), path, PLACE)
    try:
        for utterance, row, _ in parse_utterances(table, path, untranscribed=True):
            if row["client"] != rows.client or row["part"] != "client" or row["subset"] not in subsets:
                raise changed
            subsets[row["subset"]].append(utterance)
    except UserError as error:
        raise changed from error
    client = Client(rows.client, tuple(subsets["train"]), tuple(subsets["dev"]))
    if len(client.train) != rows.examples:
        raise changed
    return client


def read_partition(folder: str | Path) -> Partition:
    """Read `partition.csv` of `folder`: the same object that was written.

    Raises UserError if the file is missing or damaged, or if a speaker is in two parts or clients (after an edit by
    hand, for example).
    """
    path = Path(folder) / "partition.csv"
    if not path.is_file():
        raise UserError(f"There is no partition at {path}. Make it again from the manifest.")
    parts: dict[str, list[Utterance]] = {"warm_up": [], "held_out": [], "dev": [], "test": []}
    clients: defaultdict[str, dict[str, list[Utterance]]] = defaultdict(lambda: {"train": [], "dev": []})
    dropped: defaultdict[str, list[Utterance]] = defaultdict(list)
    home: dict[str, str] = {}
    for utterance, row, where in read_utterances(path, PLACE, untranscribed=True):
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
            raise UserError(f"{path}: {name} has nothing to train on. Make the partition again.")
    wrong = Path(folder) / WRONG
    return Partition(
        **{name: tuple(own) for name, own in parts.items()},
        clients=tuple(Client(name, tuple(own["train"]), tuple(own["dev"])) for name, own in clients.items()),
        dropped={reason: tuple(own) for reason, own in dropped.items()},
        wrong_transcripts=frozenset(read_lines(wrong) if wrong.is_file() else ()),
    )
