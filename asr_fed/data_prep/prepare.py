"""The common part of all corpora: clips are normalised, measured in parallel, checked, and written as a manifest.

A clip is dropped either by a *rule* (about its length or its text; the corpus is fine) or for a *defect* (the clip has
a fault). Both are counted and shown; only defects can stop a preparation.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from asr_fed.data.identity import identity, refuse_look_alikes
from asr_fed.data.manifest import Utterance, write_manifest
from asr_fed.data_prep.locate import LINK_OUT, File, locate
from asr_fed.data_prep.measure import CACHE, measure
from asr_fed.data_prep.report import EMPTY, REPORT, RULES, UNNAMED, report
from asr_fed.data_prep.text import Rules, normalise, rules_for
from asr_fed.system.errors import UserError


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
    untranscribed: bool
    follow_links: bool


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
    untranscribed: bool = False,
    follow_links: bool = False,
) -> list[Utterance]:
    """Write the manifest of the good clips, in their order, and return it.

    `language`, `digits`, `case` choose the text rules (asr_fed/data_prep/text.py). Clips shorter than `min_seconds` or
    longer than `max_seconds` are dropped by rule, and so are those whose text is empty, unless `untranscribed`: then
    they are kept, as speech without transcripts. Defects are: clips whose peak is below `silence_db` (dB of full
    scale); missing, broken or empty files; repeated ids; clips without a speaker; files outside `root`, and links that
    lead out of it (unless `follow_links`); and `bad_rows` (reason to names: rows of the corpus's tables that could not
    be read, recordings without a text). `unnamed` are recordings that no table names: they are shown but do not count
    as rows. `workers` processes decode; 0 means one per core.

    Two more files are written beside the manifest: `preparation.json` (what was dropped and why) and
    `preparation_cache.jsonl`, with which a later run, also after a kill, measures only files whose size or modification
    time has changed.

    Raises UserError, and leaves an older manifest unchanged, if less than `min_kept` of all rows is free of defects, or
    if nothing is left.
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

    candidates = list(_screen(clips, root, rules, dropped, untranscribed, follow_links))
    refuse_look_alikes((clip.speaker for clip, *_ in candidates), str(root))
    probes = measure([file for _, _, file in candidates], manifest.with_name(CACHE), workers)

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
    report(manifest, dropped, utterances, rows=rows, written=not stop)
    if stop:
        counts = [f"{reason} {len(names)} (first: {names[0]})" for reason, names in sorted(dropped.items())]
        allow = " Links out of it are followed with follow_links (--follow-links)." if LINK_OUT in dropped else ""
        if EMPTY in dropped:
            allow += " Rows without a text are kept with untranscribed (--untranscribed)."
        raise UserError(
            f"{root}: {stop}. Dropped: {', '.join(counts) or 'none'}. No manifest was written. "
            f"Mend the corpus or lower min_kept; details are in {manifest.with_name(REPORT)}.{allow}"
        )
    return utterances


def _screen(
    clips: Iterable[Clip],
    root: Path,
    rules: Rules,
    dropped: defaultdict[str, list[str]],
    untranscribed: bool,
    follow_links: bool,
) -> Iterator[tuple[Clip, str, File]]:
    """The clips that are worth decoding, each with its normalised text and its file."""
    seen: set[str] = set()
    resolve = cache(os.path.realpath)  # many clips, few folders
    for clip in clips:
        empty = not clip.sentence.strip()
        text = "" if empty else normalise(clip.sentence, rules)
        file = locate(clip.path, resolve(root), resolve, follow_links=follow_links)
        if clip.id in seen:
            dropped["duplicate id"].append(clip.id)
        elif not clip.speaker:
            dropped["no speaker"].append(clip.id)
        elif isinstance(file, str):
            dropped[file].append(clip.id)
        elif empty and not untranscribed:
            dropped[EMPTY].append(clip.id)
        elif text is None:
            dropped["refused text"].append(clip.id)
        else:
            yield clip, text, file
        seen.add(clip.id)
