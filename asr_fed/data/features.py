"""Log-mel filterbanks or waveforms, computed once into a memory-mapped cache that every worker shares.

The cache is a folder of shards. A shard holds the frames of some hundred utterances behind one another
(float16, [frames, width]), those of each followed by one of digital silence, and is named by a hash of all
that determines its content: the features' settings, the playback speed and the path, size and modification
time of each recording. So a change of any of them makes a new shard, and nothing is ever overwritten. A shard
becomes visible by one rename: a killed build leaves finished shards to its successor, and two builders at worst
wait for each other.
"""

import functools
import hashlib
import json
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from rich.progress import track

from asr_fed.config.schema import FeatureConfig, FeatureKind
from asr_fed.data.audio import read_audio
from asr_fed.data.manifest import Utterance
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_text
from asr_fed.system.processes import deaf_to_ctrl_c, start_worker

if TYPE_CHECKING:
    import torch

SHARD_UTTERANCES = 256
VERSION = 3  # of the file format and of the computation below
OWN = 1.0  # the playback speed of a recording as it is

Shards = list[tuple[str, str]]  # of one speed: first utterance and file name of each, in the order of utterance ids


@dataclass(frozen=True)
class FeatureCache:
    """Frames of utterances, by playback speed: `cache[utterance_id, speed]` is [frames, width].

    It holds a line for each shard; where an utterance lies in its shard is read when it is asked for.
    """

    folder: Path
    shards: dict[float, Shards]

    def __getitem__(self, key: tuple[str, float]) -> np.ndarray:
        shard, start, stop = self._place(*key)
        return _mapped(shard)[start:stop]

    def silence(self, utterance_id: str, speed: float) -> np.ndarray:
        """What digital silence in this recording would read: [width]."""
        shard, _, stop = self._place(utterance_id, speed)
        x: np.ndarray = _mapped(shard)[stop]
        return x

    def frames(self, utterance_id: str, speed: float) -> int:
        """How many there are, without reading them. Many are quickest in the order of their ids."""
        _, start, stop = self._place(utterance_id, speed)
        return stop - start

    def _place(self, utterance_id: str, speed: float) -> tuple[Path, int, int]:
        """Shard, first frame, and the frame of digital silence behind the last one."""
        shard = self.folder / self.shards[speed][self.number(utterance_id, speed)][1]
        start, stop = _rows(shard)[utterance_id]
        return shard, start, stop - 1

    def number(self, utterance_id: str, speed: float) -> int:
        """Of the shard that holds the utterance, if any does."""
        return max(0, bisect_right(self.shards[speed], utterance_id, key=itemgetter(0)) - 1)

    def save(self, path: Path) -> None:
        """What `open_features` needs to open this cache without a look at the recordings."""
        write_text(path, json.dumps({str(speed): shards for speed, shards in self.shards.items()}))


def open_features(path: Path, folder: Path) -> FeatureCache:
    """The cache in `folder` that was saved to `path`. Raises UserError where that or a shard is not there."""
    again = "Continue the run with resume=true: its features are computed again."
    if not path.is_file() or not folder.is_dir():
        raise UserError(f"There is no {folder if path.is_file() else path}. {again}")
    content = json.loads(path.read_text(encoding="utf-8"))
    shards = {float(speed): [(first, name) for first, name in listed] for speed, listed in content.items()}
    if gone := {name for listed in shards.values() for _, name in listed}.difference(os.listdir(folder)):
        raise UserError(f"{len(gone)} files of features are gone from {folder}. {again}")
    return FeatureCache(folder, shards)


def build_features(
    utterances: Iterable[Utterance], config: FeatureConfig, folder: Path, *, processes: int = 1
) -> FeatureCache:
    """Open the cache in `folder`, first computing what it lacks (in parallel, with a progress bar).

    It holds the recordings at their own speed; see `add_speeds`. Raises UserError where a recording cannot be read.
    """
    ordered = sorted(set(utterances), key=lambda utterance: utterance.id)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [tuple(ordered[start : start + SHARD_UTTERANCES]) for start in range(0, len(ordered), SHARD_UTTERANCES)]
    jobs = [_Job(part, config, OWN, folder / _name(part, config)) for part in parts]
    return FeatureCache(folder, {OWN: _build(jobs, processes)})


def add_speeds(
    cache: FeatureCache,
    utterances: Iterable[Utterance],
    speeds: Sequence[float],
    config: FeatureConfig,
    *,
    processes: int = 1,
) -> FeatureCache:
    """The same cache, with `utterances` of it at further playback speeds (speed perturbation)."""
    parts: defaultdict[int, list[Utterance]] = defaultdict(list)  # by the shard of their own speed
    for utterance in sorted(set(utterances), key=lambda utterance: utterance.id):
        parts[cache.number(utterance.id, OWN)].append(utterance)
    jobs = [
        # The name of the other shard says all of the recordings: they are not looked at again.
        _Job(tuple(part), config, speed, cache.folder / _digest([speed, cache.shards[OWN][number][1], *_ids(part)]))
        for speed in sorted(set(speeds) - {OWN})
        for number, part in sorted(parts.items())
    ]
    _build(jobs, processes)
    shards = dict(cache.shards)
    for job in jobs:
        shards[job.speed] = [*shards.get(job.speed, []), (job.utterances[0].id, job.path.name)]
    return FeatureCache(cache.folder, shards)


@dataclass(frozen=True)
class _Job:
    utterances: tuple[Utterance, ...]
    config: FeatureConfig
    speed: float
    path: Path


def _name(utterances: Sequence[Utterance], config: FeatureConfig) -> str:
    content: list[Any] = [VERSION, config.identity, OWN]
    for utterance in utterances:
        try:
            stat = os.stat(utterance.wav)
        except OSError as error:
            raise UserError(
                f"The recording {utterance.wav} ({utterance.id}) cannot be read: {error.strerror}. "
                "Prepare the corpus again, or correct the manifest."
            ) from None
        content.append([utterance.id, utterance.wav, stat.st_size, stat.st_mtime_ns])
    return _digest(content)


def _ids(utterances: Sequence[Utterance]) -> list[str]:
    return [utterance.id for utterance in utterances]


def _digest(content: list[Any]) -> str:
    """The file name of a shard of this content."""
    return f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}.npy"


def _build(jobs: Sequence[_Job], processes: int) -> Shards:
    """Compute the shards that are not there; returns all."""
    missing = [job for job in jobs if not job.path.with_suffix(".json").is_file()]
    if missing:
        shards = _build_shards(missing, min(processes, len(missing)))
        for _ in track(shards, description="Features", total=len(missing)):
            pass
    return [(job.utterances[0].id, job.path.name) for job in jobs]


def _build_shards(jobs: Sequence[_Job], processes: int) -> Iterator[None]:
    """Compute the shards with one thread each. A single process is this one: another takes seconds to start."""
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_builder) as pool:
            with deaf_to_ctrl_c():
                shards = pool.map(_build_shard, jobs)
            yield from shards
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(_build_shard, jobs)
    finally:
        torch.set_num_threads(threads)


def _start_builder() -> None:
    import torch

    start_worker()
    torch.set_num_threads(1)


def _build_shard(job: _Job) -> None:
    """Compute one shard; the index, written last, is what makes the shard exist."""
    with FileLock(job.path.with_suffix(".lock")):
        index = job.path.with_suffix(".json")
        if index.is_file():
            return
        rows, parts, start = [], [], 0
        for utterance, frames in zip(job.utterances, _features(job), strict=True):
            rows.append((utterance.id, start, start + len(frames)))
            parts.append(frames)
            start += len(frames)
        with replacing(job.path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(parts))
        with replacing(index) as temporary:
            temporary.write_text(json.dumps(rows))
    with suppress(OSError):
        os.unlink(job.path.with_suffix(".lock"))


def _features(job: _Job) -> Iterator[np.ndarray]:
    compute = extractor(job.config)
    for utterance in job.utterances:
        try:
            signal = read_audio(utterance.wav, job.config.sample_rate, speed=job.speed)
        except UserError as error:
            raise UserError(f"{utterance.id}: {error} Prepare the corpus again, or correct the manifest.") from error
        yield compute(signal, with_silence=True).numpy()


def extractor(config: FeatureConfig) -> "Callable[..., torch.Tensor]":
    """The function that makes features, float16 [frames, width], of a waveform, float32 [samples]."""
    if config.kind is FeatureKind.waveform:
        from asr_fed.data.waveform import waveform

        return waveform
    from speechbrain.lobes.features import Fbank

    from asr_fed.data.log_mel import log_mel

    fbank = Fbank(
        sample_rate=config.sample_rate,
        n_mels=config.n_mels,
        n_fft=config.n_fft,
        win_length=config.win_ms,
        hop_length=config.hop_ms,
    )
    return functools.partial(log_mel, fbank=fbank, subtract_mean=config.subtract_mean, mean_gate_db=config.mean_gate_db)


@functools.lru_cache(maxsize=128)  # some 100 kB each, so that a process needs about 10 MB whatever the corpus
def _rows(shard: Path) -> dict[str, tuple[int, int]]:
    """First frame of each utterance, and the end of its frames with the one of silence."""
    rows = json.loads(shard.with_suffix(".json").read_text())
    return {utterance_id: (start, stop) for utterance_id, start, stop in rows}


@functools.lru_cache(maxsize=4096)
def _mapped(shard: Path) -> np.ndarray:
    """Torch maps a file without keeping it open, as numpy does: a process has 1,024 open files, and may need more."""
    import torch

    with shard.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    content = torch.from_file(str(shard), shared=False, size=size, dtype=torch.uint8).numpy()
    frames = content[start:].view(dtype).reshape(shape)
    frames.flags.writeable = False
    return frames


def feature_statistics(cache: FeatureCache, utterances: Iterable[Utterance]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per mel band over all frames, each float32 [n_mels]."""
    # One row an utterance: number of frames, sum and sum of squares of each band.
    rows = [
        np.concatenate([[len(frames)], frames.sum(axis=0), (frames**2).sum(axis=0)])
        for utterance in sorted(utterances, key=lambda utterance: utterance.id)
        for frames in [cache[utterance.id, OWN].astype(np.float64)]
    ]
    total = np.sum(rows, axis=0)
    mean, mean_square = np.split(total[1:] / total[0], 2)
    deviation = np.sqrt(np.maximum(mean_square - mean**2, 1e-6))
    return mean.astype(np.float32), deviation.astype(np.float32)
