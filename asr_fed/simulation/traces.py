"""Tables of a fleet from what others have measured: FLASH's and FedScale's files, as JSON or CSV. Nothing is unpickled.

FLASH (github.com/PKU-Chengxu/FLASH): benchmark2score.json has a score by phone model (as CSV: model,score),
speed_distri.json the means of each user's speeds in kB/s (user,down_u,up_u).

FedScale (github.com/SymbioticLab/FedScale) publishes pickled dicts, which are read here as JSON of the same form:
`client_device_capacity` has of each client {computation: ms a sample, communication: kbit/s} (as CSV:
client,computation,communication); `client_behave_trace` {active: [seconds], inactive: [seconds], duration}, lists that
a CSV has no place for.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_fed.data.text_file import read_table, read_text
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text

QUANTILES = tuple(step / 20 for step in range(1, 20))
CLASSES = 10  # of FedScale's devices, each as large as the others
DAY, HOUR = 86400, 3600
CAPACITY = ("computation", "communication")
KILOBYTES = 8 / 1000  # Mbit/s of a kB/s


def flash_devices(path: Path) -> str:
    """benchmark2score.json: every model a class of its own; how common each is the file does not say."""
    if _is_csv(path):
        scores = {name: values["score"] for name, values in _rows(path, "model", ("score",)).items()}
    else:
        scores = {name: _positive(path, name, value) for name, value in _mapping(path).items()}
    rows = [(name, f"{1 / len(scores):.9g}", f"{score:g}") for name, score in sorted(scores.items())]
    return _table(path, "Phone models of FLASH, equally many of each.", ("device", "share", "score"), rows)


def flash_network(path: Path) -> str:
    """speed_distri.json: quantiles over users of their mean speeds, down and up apart."""
    users = _entries(path, "user", ("down_u", "up_u"))
    down, up = ([each[key] * KILOBYTES for each in users.values()] for key in ("down_u", "up_u"))
    return _network(path, f"Mean speeds of {len(users)} users of FLASH.", down, up)


def fedscale_devices(path: Path) -> str:
    """client_device_capacity: ten classes of equally many devices, from the fastest to the slowest tenth."""
    times = np.sort([capacity["computation"] for capacity in _entries(path, "client", CAPACITY).values()])
    classes = [float(part.mean()) for part in np.array_split(times, min(CLASSES, len(times)))]
    share = 1 / len(classes)
    rows = [
        (f"tenth {number}", f"{share:.9g}", f"{seconds / classes[0]:.6g}") for number, seconds in enumerate(classes, 1)
    ]
    return _table(path, f"{len(times)} devices of FedScale, by speed.", ("device", "share", "slowdown"), rows)


def fedscale_network(path: Path) -> str:
    """client_device_capacity: quantiles of its kbit/s, the same down and up."""
    speeds = [capacity["communication"] / 1000 for capacity in _entries(path, "client", CAPACITY).values()]
    return _network(path, f"{len(speeds)} devices of FedScale, as fast up as down.", speeds, speeds)


def fedscale_availability(path: Path) -> str:
    """client_behave_trace: the share of clients that are active, by hour of the trace's day."""
    if _is_csv(path):
        raise UserError(f"{path}: activity traces are lists of seconds, which are read from JSON only.")
    traces = _mapping(path)
    there = np.zeros(24)
    hours = np.zeros(24)
    for client, trace in traces.items():
        duration = _positive(path, f"{client}.duration", _of(path, client, trace, "duration"))
        spans = _spans(path, client, trace)
        for hour in range(math.floor(duration / HOUR)):
            at = hour * HOUR + HOUR / 2
            hours[hour % 24] += 1
            there[hour % 24] += any(begin <= at < end for begin, end in spans)
    if missing := [hour for hour in range(24) if not hours[hour]]:
        raise UserError(f"{path} has holes: no trace covers hour {', '.join(map(str, missing))} of the day.")
    rows = [(str(hour), f"{there[hour] / hours[hour]:.6g}") for hour in range(24)]
    return _table(path, f"Share of {len(traces)} clients of FedScale that are active.", ("hour", "available"), rows)


KINDS: dict[str, Callable[[Path], str]] = {
    "flash-devices": flash_devices,
    "flash-network": flash_network,
    "fedscale-devices": fedscale_devices,
    "fedscale-network": fedscale_network,
    "fedscale-availability": fedscale_availability,
}


def convert(kind: str, source: Path, target: Path) -> None:
    """Write a table that `simulation.devices`, `network` or `availability` takes.

    Raises UserError, with the key or row, for what is not of this kind.
    """
    write_text(target, KINDS[kind](source))


def _network(path: Path, what: str, down: Sequence[float], up: Sequence[float]) -> str:
    """Quantiles at the plotting positions i / (n + 1)."""
    rows = []
    for quantile in QUANTILES:
        speeds = (np.quantile(values, quantile, method="weibull") for values in (down, up))
        rows.append((f"{quantile:g}", *(f"{speed:.6g}" for speed in speeds)))
    return _table(path, what, ("quantile", "mbps_down", "mbps_up"), rows)


def _spans(path: Path, client: str, trace: Any) -> list[tuple[float, float]]:
    begins, ends = (_of(path, client, trace, key) for key in ("active", "inactive"))
    whole = isinstance(begins, list) and isinstance(ends, list) and len(begins) == len(ends)
    if not whole or not all(_is_number(value) for value in (*begins, *ends)):
        raise UserError(f"{path}: {client} has not as many numbers in active as in inactive.")
    spans = list(zip(begins, ends, strict=True))
    if any(begin > end for begin, end in spans):
        raise UserError(f"{path}: {client} is inactive before it is active.")
    return spans


def _entries(path: Path, key: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Numbers above 0 by name: of JSON {name: {column: number}}, or of a CSV with the columns `key` and `columns`."""
    if _is_csv(path):
        return _rows(path, key, columns)
    return {
        name: {column: _positive(path, f"{name}.{column}", _of(path, name, each, column)) for column in columns}
        for name, each in _mapping(path).items()
    }


def _rows(path: Path, key: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line, row in read_table(path, (key, *columns)):
        if row[key] in found:
            raise UserError(f"{path}, line {line}: the {key} {row[key]!r} occurs twice.")
        found[row[key]] = {column: _positive(path, f"line {line}, {column}", _read(row[column])) for column in columns}
    if not found:
        raise UserError(f"{path} has no {key}.")
    return found


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _mapping(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise UserError(f"{path} is a pickle, which can run any program when it is read: save it as JSON first.")
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}).") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is no JSON object with entries.")
    return content


def _of(path: Path, name: str, entry: Any, key: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise UserError(f"{path}: {name} has no {key}.")
    return entry[key]


def _positive(path: Path, where: str, value: Any) -> float:
    if not _is_number(value) or not 0 < value < math.inf:
        raise UserError(f"{path}: {where} is {value!r}, not a number above 0.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _table(path: Path, what: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    return "\n".join([f"# {what} From {path.name}.", ",".join(columns), *map(",".join, quoted)]) + "\n"
