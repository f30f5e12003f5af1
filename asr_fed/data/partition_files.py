"""A partition on disk: partition.csv, and summary.json with its sizes."""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_fed.data.identity import identity
from asr_fed.data.manifest import COLUMNS, Utterance, hours, read_utterances
from asr_fed.data.partition import Client, Partition
from asr_fed.data.spread import spread
from asr_fed.data.text_file import read_lines
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_text

WRONG = "wrong_transcripts.txt"  # ids of the clients that were corrupted for an experiment, one a line


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
    return {
        **({"clients_with_wrong_transcripts_on_purpose": wrong} if wrong else {}),
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


def write_partition(partition: Partition, folder: str | Path) -> None:
    """Write `summary.json` and `partition.csv` to `folder`.

    Where clients have wrong transcripts on purpose, `wrong_transcripts.txt` lists them.

    `partition.csv` is the manifest with three more columns: `part` (warm_up, held_out, dev, test, client or dropped),
    `client` (its id), `subset` (train or dev of a client, or the reason for dropping). Each file is written whole or
    not at all, partition.csv last.
    """
    folder = Path(folder)
    wrong = "".join(f"{client}\n" for client in sorted(partition.wrong_transcripts))
    folder.mkdir(parents=True, exist_ok=True)
    if wrong:
        write_text(folder / WRONG, wrong)
    else:
        (folder / WRONG).unlink(missing_ok=True)
    write_text(folder / "summary.json", json.dumps(summarise(partition), indent=2) + "\n")
    with replacing(folder / "partition.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "part", "client", "subset"])

        def write(utterances: Sequence[Utterance], *place: str) -> None:
            # csv writes floats with all digits; the four digits of a manifest would lose some.
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
            raise UserError(f"{path}: {name} has nothing to train on. Make the partition again.")
    wrong = Path(folder) / WRONG
    return Partition(
        **{name: tuple(own) for name, own in parts.items()},
        clients=tuple(Client(name, tuple(own["train"]), tuple(own["dev"])) for name, own in clients.items()),
        dropped={reason: tuple(own) for reason, own in dropped.items()},
        wrong_transcripts=frozenset(read_lines(wrong) if wrong.is_file() else ()),
    )
