"""The measurements of recordings: made in parallel, and kept beside the manifest for the next preparation."""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asr_fed.data.audio import BadRecording, open_recording
from asr_fed.data_prep.locate import File
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing
from asr_fed.system.processes import available_cores, deaf_to_ctrl_c, start_worker

CACHE = "preparation_cache.jsonl"  # beside the manifest
MEASURED_BY = 2  # raise it when measuring changes: measurements of an earlier version no longer count
CHUNK = 32  # clips that a worker measures at a time
FEW = 64  # below this, starting worker processes costs more than it saves


@dataclass(frozen=True, slots=True)
class Probe:
    """The measurements of one file; `peak` is half of the peak-to-peak value of the mean of its channels, 1 at full
    scale."""

    size: int
    mtime_ns: int
    seconds: float
    peak: float
    problem: str = ""


def measure(files: Sequence[File], cache_path: Path, workers: int) -> dict[str, Probe]:
    """Probes by path. A file that has not changed is taken from the cache; a defective file is measured again."""
    probes = read_probes(cache_path)
    todo = {}
    for file in files:
        known = probes.get(file.path)
        if not known or known.problem or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            todo[file.path] = file
    if not todo:
        return probes
    columns = TextColumn("measuring clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(markup=False, emoji=False)  # standard output: quiet_stderr would hide a bar on the other one
    # Each finished chunk is appended at once, so that a killed preparation loses only unfinished chunks.
    with Progress(*columns, console=console) as bar, cache_path.open("a", encoding="utf-8") as log:
        task = bar.add_task("", total=len(todo))
        for chunk in _decode(list(todo.values()), workers or available_cores()):
            probes.update(chunk)
            log.write("".join(_probe_line(path, probe) for path, probe in chunk))
            log.flush()
            bar.advance(task, len(chunk))
    return probes


def read_probes(path: Path) -> dict[str, Probe]:
    """The measurements in the cache file; lines that cannot be read are ignored and removed."""
    probes: dict[str, Probe] = {}
    if not path.is_file():
        return probes
    lines = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            lines += 1
            if not line.endswith("\n"):
                continue  # the writer was killed here
            try:
                measured_by, name, size, mtime_ns, seconds, peak, problem = json.loads(line)
                if measured_by == MEASURED_BY:
                    probes[str(name)] = Probe(int(size), int(mtime_ns), float(seconds), float(peak), str(problem))
            except (ValueError, TypeError):
                continue
    if lines > len(probes):  # some lines are incomplete, or replaced by later ones
        with replacing(path) as temporary:
            temporary.write_text("".join(_probe_line(*item) for item in probes.items()), encoding="utf-8")
    return probes


def _probe_line(path: str, probe: Probe) -> str:
    return json.dumps([MEASURED_BY, path, probe.size, probe.mtime_ns, probe.seconds, probe.peak, probe.problem]) + "\n"


def _decode(files: list[File], workers: int) -> Iterator[list[tuple[str, Probe]]]:
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    if workers == 1 or len(files) <= FEW:
        yield from map(_probe_chunk, chunks)
        return
    # spawn, not fork: the caller may hold threads (torch, a progress bar) that a fork would break
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)), multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        with deaf_to_ctrl_c():
            futures = [pool.submit(_probe_chunk, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A decoding process died (out of memory, or a file that crashes the decoder). What was measured "
            "is kept: start again, with workers=1 if it happens again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _probe_chunk(files: Sequence[File]) -> list[tuple[str, Probe]]:
    with quiet_stderr():
        return [(file.path, _probe(file)) for file in files]


def _probe(file: File) -> Probe:
    try:
        with open_recording(file.path) as recording:
            samples = sum(map(len, recording.blocks()))
    except BadRecording as error:
        return Probe(file.size, file.mtime_ns, 0.0, 0.0, error.defect)
    peak = (recording.highest - recording.lowest) / 2
    return Probe(file.size, file.mtime_ns, round(samples / recording.rate, 4), round(peak, 6))


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep messages of the MP3 decoder (a C library that warns about good files) off the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
