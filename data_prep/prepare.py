"""What every corpus shares: clips are normalised, measured in parallel, judged, and written as a manifest.

A clip is dropped either by a *rule* (its length or its text: the corpus is as it should be) or for a
*defect* (something is wrong with it). Both are counted and shown; only defects can stop a preparation.
"""

import argparse
import inspect
import json
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from asr_fed.data.audio import BadRecording, open_recording
from asr_fed.data.identity import identity, refuse_look_alikes
from asr_fed.data.manifest import Utterance, hours, write_manifest
from asr_fed.system.errors import UserError
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import replacing
from asr_fed.system.processes import available_cores, deaf_to_ctrl_c, start_worker
from data_prep.locate import LINK_OUT, SHADOW, File, locate
from data_prep.text import Rules, normalise, rules_for

CACHE, REPORT = "preparation_cache.jsonl", "preparation.json"  # beside the manifest
JUDGED_BY = 2  # goes up where a recording is judged otherwise than before: what was measured earlier counts no more
UNNAMED = "not in the table"
RULES = ("refused text", "too short", "too long", SHADOW, UNNAMED)
SHOWN = 5  # names kept for each reason
CHUNK = 32  # clips a worker measures in one go
FEW = 64  # below this, starting worker processes costs more than it saves


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording as its corpus states it; `path` is absolute or relative to the corpus folder."""

    id: str
    path: str
    speaker: str
    sentence: str
    locale: str = ""
    gender: str = ""
    age: str = ""
    accent: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        for field in ("id", "speaker"):
            object.__setattr__(self, field, identity(getattr(self, field)))


class Options(TypedDict, total=False):
    """The keyword arguments of `write_corpus` that every corpus passes on."""

    min_seconds: float
    max_seconds: float
    min_kept: float
    silence_db: float
    workers: int
    digits: str
    case: str
    follow_links: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """What decoding a file once tells; `peak` is half of peak to peak of the mean of its channels, 1 at full scale."""

    size: int
    mtime_ns: int
    seconds: float
    peak: float
    problem: str = ""


def write_corpus(
    clips: Iterable[Clip],
    root: str | Path,
    manifest: str | Path,
    *,
    language: str,
    bad_rows: Mapping[str, Sequence[str]] | None = None,
    unnamed: Sequence[str] = (),
    min_seconds: float = 1.0,
    max_seconds: float = 40.0,
    min_kept: float = 0.8,
    silence_db: float = -50.0,
    workers: int = 0,
    digits: str = "",
    case: str = "",
    follow_links: bool = False,
) -> list[Utterance]:
    """Write the manifest of the good ones among `clips`, in their order, and return it.

    `language`, `digits`, `case` choose the text rules (data_prep/text.py). Clips shorter than
    `min_seconds` or longer than `max_seconds` are dropped by rule; clips whose peak stays under
    `silence_db` (dB of full scale) are silent, a defect like missing, broken or empty files, repeated
    ids, absent speakers, files outside `root`, links that leave it (unless `follow_links`), and `bad_rows`
    (reason to names: rows of the corpus's own tables that could not be read, recordings without a text).
    `unnamed` are recordings that the corpus leaves out itself: shown, and no rows. `workers` processes
    decode, 0 for one a core.

    Beside the manifest lie `preparation.json` (what was dropped and why) and `preparation_cache.jsonl`:
    a later run, also after a kill, measures only files whose size or time of change differ.

    Raises UserError, and leaves an older manifest as it was, where less than `min_kept` of all rows is
    free of defects or where nothing is left.
    """
    if not 0 <= min_seconds < max_seconds or not 0 <= min_kept <= 1 or workers < 0:
        raise UserError(
            f"min_seconds={min_seconds}, max_seconds={max_seconds}, min_kept={min_kept}, workers={workers}: "
            "needed are 0 <= min_seconds < max_seconds, 0 <= min_kept <= 1, workers >= 0."
        )
    rules = rules_for(language, digits=digits, case=case)
    root, manifest = Path(root), Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    dropped: defaultdict[str, list[str]] = defaultdict(list)
    dropped |= {reason: list(names) for reason, names in (bad_rows or {}).items()}

    candidates = list(_screen(clips, root, rules, dropped, follow_links))
    refuse_look_alikes((clip.speaker for clip, *_ in candidates), str(root))
    probes = _measure([file for _, _, file in candidates], manifest.with_name(CACHE), workers)

    utterances = []
    silence = 10 ** (silence_db / 20)
    for clip, text, file in candidates:
        probe = probes[file.path]
        if probe.problem:
            dropped[probe.problem].append(clip.id)
        elif probe.peak < silence:
            dropped["silent"].append(clip.id)
        elif probe.seconds < min_seconds:
            dropped["too short"].append(clip.id)
        elif probe.seconds > max_seconds:
            dropped["too long"].append(clip.id)
        else:
            more = (clip.locale, clip.gender, clip.age, clip.accent, clip.split)
            utterances.append(Utterance(clip.id, probe.seconds, file.path, clip.speaker, text, *more))

    rows = len(utterances) + sum(map(len, dropped.values()))
    if unnamed:
        dropped[UNNAMED] = list(unnamed)
    defects = sum(len(names) for reason, names in dropped.items() if reason not in RULES)
    share = 1 - defects / max(rows, 1)
    stop = ""
    if not utterances:
        stop = f"nothing usable among {rows} rows"
    elif share < min_kept:
        stop = f"{share:.1%} of {rows} rows are free of defects, less than min_kept={min_kept}"
    if not stop:
        write_manifest(manifest, utterances)
    _report(manifest, dropped, utterances, rows=rows, written=not stop)
    if stop:
        counts = [f"{reason} {len(names)} (first: {names[0]})" for reason, names in sorted(dropped.items())]
        allow = " Links out of it are followed with follow_links (--follow-links)." if LINK_OUT in dropped else ""
        raise UserError(
            f"{root}: {stop}. Dropped: {', '.join(counts) or 'none'}. No manifest was written. "
            f"Mend the corpus or lower min_kept; details are in {manifest.with_name(REPORT)}.{allow}"
        )
    return utterances


def _screen(
    clips: Iterable[Clip], root: Path, rules: Rules, dropped: defaultdict[str, list[str]], follow_links: bool
) -> Iterator[tuple[Clip, str, File]]:
    """The clips that are worth decoding, each with its normalised text and its file."""
    seen: set[str] = set()
    resolve = cache(os.path.realpath)  # many clips, few folders
    for clip in clips:
        text = normalise(clip.sentence, rules)
        file = locate(clip.path, resolve(root), resolve, follow_links=follow_links)
        if clip.id in seen:
            dropped["duplicate id"].append(clip.id)
        elif not clip.speaker:
            dropped["no speaker"].append(clip.id)
        elif isinstance(file, str):
            dropped[file].append(clip.id)
        elif text is None:
            dropped["refused text"].append(clip.id)
        else:
            yield clip, text, file
        seen.add(clip.id)


def _measure(files: Sequence[File], cache_path: Path, workers: int) -> dict[str, Probe]:
    """Probes by path, from the cache where a file has not changed since (a defective one is tried again)."""
    probes = read_probes(cache_path)
    todo = {}
    for file in files:
        known = probes.get(file.path)
        if not known or known.problem or (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
            todo[file.path] = file
    if not todo:
        return probes
    columns = TextColumn("measuring clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Each finished chunk is appended at once: a killed preparation loses what was in flight, no more.
    with Progress(*columns, console=_console()) as bar, cache_path.open("a", encoding="utf-8") as log:
        task = bar.add_task("", total=len(todo))
        for chunk in _decode(list(todo.values()), workers or available_cores()):
            probes.update(chunk)
            log.write("".join(_probe_line(path, probe) for path, probe in chunk))
            log.flush()
            bar.advance(task, len(chunk))
    return probes


def read_probes(path: Path) -> dict[str, Probe]:
    """The measurements kept in the cache file; lines that cannot be read are passed over and removed."""
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
                judged_by, name, size, mtime_ns, seconds, peak, problem = json.loads(line)
                if judged_by == JUDGED_BY:
                    probes[str(name)] = Probe(int(size), int(mtime_ns), float(seconds), float(peak), str(problem))
            except (ValueError, TypeError):
                continue
    if lines > len(probes):  # some are torn, or replaced by later ones
        with replacing(path) as temporary:
            temporary.write_text("".join(_probe_line(*item) for item in probes.items()), encoding="utf-8")
    return probes


def _probe_line(path: str, probe: Probe) -> str:
    return json.dumps([JUDGED_BY, path, probe.size, probe.mtime_ns, probe.seconds, probe.peak, probe.problem]) + "\n"


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
    """Keep the mp3 decoder, a C library that remarks on healthy files, off the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _console() -> Console:
    return Console()  # standard output, as quiet_stderr would hide a bar on the other one


def _report(
    manifest: Path, dropped: Mapping[str, list[str]], utterances: list[Utterance], *, rows: int, written: bool
) -> None:
    """Show what was dropped and why, and keep it as preparation.json."""
    speakers = len({utterance.speaker for utterance in utterances})
    title = f"{rows} rows, {len(utterances)} kept, {hours(utterances):.2f} h, {speakers} speakers"
    table = Table("dropped", "because of a", "clips", f"first {SHOWN}", title=title, title_justify="left")
    reasons = {}
    for reason, names in sorted(dropped.items()):
        kind = "rule" if reason in RULES else "defect"
        reasons[reason] = {"kind": kind, "clips": len(names), "first": names[:SHOWN]}
        table.add_row(reason, kind, str(len(names)), Text(", ".join(names[:SHOWN])))
    _console().print(table if dropped else f"{title}; nothing dropped")
    summary = {
        "manifest": manifest.name,
        "manifest_written": written,
        "rows": rows,
        "kept": len(utterances),
        "hours": round(hours(utterances), 4),
        "speakers": speakers,
        "dropped": reasons,
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    manifest.with_name(REPORT).write_text(text + "\n", encoding="utf-8", errors="replace")


OPTION_HELP = {
    "min_seconds": "drop shorter clips",
    "max_seconds": "drop longer clips",
    "min_kept": "stop where a smaller share of the rows is free of defects",
    "silence_db": "a clip that peaks below this (dB of full scale) is silent",
    "workers": "processes that decode, 0 for one a core",
    "digits": "refuse|keep, in place of the language's own rule for sentences with digits",
    "case": "lower|upper, in place of the language's own rule",
    "follow_links": "recordings may be links that lead out of the corpus folder",
}


def run_command(parser: argparse.ArgumentParser, prepare: Callable[..., Any], argv: Sequence[str] | None) -> int:
    """Add the shared options to a corpus's parser, call its `prepare`, and return the exit status."""
    parameters = inspect.signature(write_corpus).parameters
    for name, meaning in OPTION_HELP.items():
        default = parameters[name].default
        flag = f"--{name.replace('_', '-')}"
        shown = f" (default {default})" if default != "" and default is not False else ""
        how: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        parser.add_argument(flag, default=argparse.SUPPRESS, help=meaning + shown, **how)
    arguments = vars(parser.parse_args(argv))

    def run() -> None:
        try:
            prepare(arguments.pop("root"), arguments.pop("manifest"), **arguments)
        except KeyboardInterrupt:
            print("Stopped. The clips measured so far are kept for the next run.", file=sys.stderr)
            raise

    return exit_status(parser.prog.removeprefix("python -m "), run)
