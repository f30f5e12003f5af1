"""How many workers a machine gets: by cores on a CPU, by measurement on a GPU, or `engine.workers` if that is set.

One worker rarely uses a whole GPU. Several can share it until memory is full, or until they only wait for each other.
So both are measured: a few workers train on the longest clips, and their clips per second are counted.

Measured on a GPU once (docs/gpu.md): eight workers make 4.4 times the clips per second of one. Running out of a GPU's
memory has not been tried on one.
"""

import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client
from asr_fed.model.state import read_state
from asr_fed.model.tuning import train_only
from asr_fed.runs.experiment import Experiment, open_run, pick_device
from asr_fed.system.errors import UserError
from asr_fed.system.processes import available_cores, peak_rss_mb, start_worker
from asr_fed.tasks.learners import load_learner
from asr_fed.training.local import LocalTask, train_client

GAIN = 1.1  # doubling the workers has to bring at least this speed-up to be worth the memory
SPARE = 0.9  # of the free memory: the rest is for fragmentation, and for batches that the probe did not see
STEPS = 4  # full batches of the longest clips
PATIENCE = 600  # seconds for a probe to start, or to train STEPS batches
END = 5  # seconds that a probe has to end


@dataclass(frozen=True)
class Probe:
    """A measurement of workers that train at the same time: their clips per second in total, and the memory of one
    worker (on the GPU, or of its process)."""

    clips_per_second: float
    bytes_per_worker: int


def pick_workers(experiment: Experiment) -> int:
    """`engine.workers`; if it is null, by cores or by measurement, which takes about ten seconds per number tried.

    The measurement needs checkpoints/warm_start.pt. Raises UserError if not even one worker can train.
    """
    config, threads = experiment.config, experiment.config.engine.threads_per_worker
    if config.engine.workers is not None:
        return config.engine.workers
    device = pick_device(config.device)
    if device.type != "cuda":
        return default_workers(device, threads)
    gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 1  # assumed to be alike: one is measured
    free = torch.cuda.mem_get_info(device)[0]
    run_dir, client = str(experiment.run_dir), longest_clips(experiment)
    alone = probe(run_dir, client, 1, threads, device)
    most = min(fits(free, alone.bytes_per_worker), available_cores() // gpus) if alone else 1

    def measure(workers: int) -> float | None:
        measured = alone if workers == 1 else probe(run_dir, client, workers, threads, device)
        return measured.clips_per_second if measured else None

    return gpus * measured_workers(measure, most)


def default_workers(device: torch.device, threads: int) -> int:
    """One per GPU, or one per `threads` cores; at least one."""
    return torch.cuda.device_count() if device.type == "cuda" else max(1, available_cores() // threads)


def oversubscription(workers: int, threads: int) -> str | None:
    """A warning in one sentence if the workers' threads outnumber the cores; otherwise empty."""
    cores = available_cores()
    if workers * threads <= cores:
        return None
    return (
        f"engine.workers={workers} with engine.threads_per_worker={threads} want {workers * threads} cores, "
        f"but {cores} can be used here: the workers will slow each other down."
    )


def fits(free_bytes: int, bytes_per_worker: int) -> int:
    """How many workers fit into `free_bytes` of memory."""
    return int(SPARE * free_bytes) // max(1, bytes_per_worker)


def measured_workers(measure: Callable[[int], float | None], most: int) -> int:
    """Double the workers, up to `most`, as long as that brings at least a tenth more clips a second.

    `measure(n)` is the throughput of n workers at once, None if memory ran out. Raises UserError if memory is too small
    for a single worker.
    """
    workers, fastest = 1, measure(1)
    if fastest is None:
        raise UserError(
            "The longest clips do not fit into memory with a single worker. Lower federation.batch.max_utterances, "
            "or set federation.batch.max_seconds."
        )
    while workers < most:
        more = min(2 * workers, most)
        throughput = measure(more)
        if throughput is None or throughput < GAIN * fastest:
            break
        workers, fastest = more, throughput
    return workers


def probe(
    run_dir: str, client: Client, workers: int, threads: int, device: torch.device, seconds: float = 3.0
) -> Probe | None:
    """Let `workers` processes train `client` at the same time for `seconds`. None: out of memory.

    Raises UserError where a worker fails for another reason.
    """
    free = _free_bytes(device)
    with closing(_Probes(workers, run_dir, client, threads, device, seconds)) as probes:
        if probes.ask() is None:  # wait until all have loaded everything and trained once
            return None
        measured = probes.ask("go")
    if measured is None:
        return None
    rates, sizes, left = zip(*measured, strict=True)
    return Probe(sum(rates), max(*sizes, (free - min(left)) // workers))


class _Probes:
    """Processes that run the same measurement at the same time."""

    def __init__(self, workers: int, *arguments: Any) -> None:
        context = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_train_for, args=(there, *arguments), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def ask(self, question: str | None = None) -> list[Any] | None:
        """The answers of all; None if one ran out of memory, or was killed for it by the system."""
        if question is not None:
            for pipe in self._pipes:
                with suppress(OSError):  # it has died, which `recv` will see
                    pipe.send(question)
        answers = []
        for pipe in self._pipes:
            if not pipe.poll(PATIENCE):
                raise UserError(f"A worker did not train within {PATIENCE} s. Set engine.workers by hand.")
            try:
                kind, answer = pipe.recv()
            except (EOFError, OSError):
                return None
            if kind == "memory":
                return None
            if kind == "error":
                raise UserError(f"The number of workers could not be measured; set engine.workers by hand.\n{answer}")
            answers.append(answer)
        return answers

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(END)
            process.kill()
            process.join()


def _train_for(
    pipe: Connection, run_dir: str, client: Client, threads: int, device: torch.device, seconds: float
) -> None:
    """The work of one probe: load, wait for the start signal, train, report rate and memory."""
    start_worker()
    torch.set_num_threads(threads)
    try:
        run = open_run(run_dir)
        config = run.config
        learner = load_learner(run.checkpoints / "warm_start.pt", config)
        train_only(learner.model, config.federation)
        training, weights = run.task(learner, device), read_state(learner.model)
        settings = replace(config.federation, local_epochs=1, local_steps=None)

        def train() -> None:
            train_client(LocalTask(training, client, weights, settings.lr, 0, config.seed, settings))

        train()
        pipe.send(("ready", None))
        pipe.recv()
        started, clips = time.perf_counter(), 0
        while not clips or time.perf_counter() - started < seconds:
            train()
            clips += len(client.train)
        rate = clips / (time.perf_counter() - started)
        pipe.send(("done", (rate, _own_bytes(device), _free_bytes(device))))
        pipe.recv()  # keep the memory until all have been asked
    except Exception as error:
        pipe.send(("memory", None) if _out_of_memory(error) else ("error", traceback.format_exc()))


def longest_clips(experiment: Experiment) -> Client:
    """One client with the longest speech of all clients, enough to fill `STEPS` batches: no real client needs more
    memory."""
    clients, batch = experiment.partition.clients, experiment.config.federation.batch.max_utterances

    def longest(clips: Iterable[Utterance], count: int) -> tuple[Utterance, ...]:
        return tuple(sorted(clips, key=lambda clip: (-clip.duration, clip.id))[:count])

    train = longest((clip for client in clients for clip in client.train), STEPS * batch)
    return Client("longest clips", train, longest((clip for client in clients for clip in client.dev), batch))


def _own_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else round(peak_rss_mb() * 1024**2)


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, minus the context of each process; 0 for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _out_of_memory(error: Exception) -> bool:
    """PyTorch has an error class for its allocator; cuBLAS, cuDNN and a failing start can be recognised by text
    only."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text or "alloc_failed" in text
