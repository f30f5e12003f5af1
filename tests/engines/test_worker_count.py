"""How many workers: by cores, by hand, or by what they measure when several train at once."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from asr_fed.data.partition import Client
from asr_fed.engines import worker_count
from asr_fed.engines.worker_count import (
    default_workers,
    fits,
    longest_clips,
    measured_workers,
    oversubscription,
    pick_workers,
    probe,
)
from asr_fed.model.recogniser import save_recogniser
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.system.errors import UserError
from tests.tiny import Corpus, settings, typed_config
from tests.waiting import wait_until

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def warm(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment that workers can open, untrained."""
    config = typed_config(settings(corpus, prepared, tmp_path_factory.mktemp("probed")))
    OmegaConf.save(OmegaConf.structured(config), Path(config.run_dir) / "config.yaml")
    experiment = prepare_experiment(config)
    save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
    return experiment


def with_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(worker_count, "available_cores", lambda: cores)


@pytest.mark.parametrize(("cores", "threads", "workers"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1)])
def test_a_cpu_is_full_and_not_over_subscribed(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, workers: int
) -> None:
    with_cores(monkeypatch, cores)
    assert default_workers(CPU, threads) == workers


def test_too_many_threads_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 4)
    assert oversubscription(2, 2) is None and oversubscription(1, 4) is None
    warning = oversubscription(3, 2)
    assert warning is not None and "engine.workers=3" in warning and "6 cores" in warning and "4 can" in warning


def test_workers_are_doubled_while_that_pays() -> None:
    tried: list[int] = []

    def measure(workers: int) -> float | None:
        tried.append(workers)
        return {1: 10.0, 2: 19.0, 4: 30.0, 8: 31.0}.get(workers)

    assert measured_workers(measure, 64) == 4
    assert tried == [1, 2, 4, 8]
    assert measured_workers(measure, 3) == 2  # 3 at once run out of memory
    assert measured_workers(measure, 2) == 2
    assert measured_workers(lambda workers: float(workers), 6) == 6
    assert measured_workers(lambda workers: 5.0, 8) == 1


def test_a_single_worker_without_enough_memory_is_the_users_to_solve() -> None:
    with pytest.raises(UserError, match=r"federation\.batch"):
        measured_workers(lambda workers: None, 8)


@given(st.integers(0, 2**40), st.integers(1, 2**36))
def test_what_fits_leaves_memory_to_spare(free: int, each: int) -> None:
    count = fits(free, each)
    assert count * each <= 0.9 * free < (count + 1) * each + 1


def test_the_probe_trains_on_the_longest_clips_of_all_clients(warm: Experiment) -> None:
    batch = warm.config.federation.batch.max_utterances
    client = longest_clips(warm)
    clips = [clip for owner in warm.partition.clients for clip in owner.train]
    assert len(client.train) == len(set(client.train)) == 4 * batch < len(clips)
    assert min(clip.duration for clip in client.train) >= max(c.duration for c in set(clips) - set(client.train))


def test_workers_are_measured_by_training(warm: Experiment) -> None:
    measured = probe(str(warm.run_dir), longest_clips(warm), 2, 1, CPU, seconds=0.2)
    assert measured is not None
    assert measured.clips_per_second > 0
    assert 100e6 < measured.bytes_per_worker < 4e9
    assert multiprocessing.active_children() == []


@contextmanager
def killing(signal_number: int) -> Iterator[None]:
    """Kill the first probe that appears."""

    def kill() -> None:
        wait_until(multiprocessing.active_children)
        [first, *_] = multiprocessing.active_children()
        assert first.pid is not None
        os.kill(first.pid, signal_number)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def test_a_worker_that_the_system_kills_has_run_out_of_memory(warm: Experiment) -> None:
    with killing(signal.SIGKILL):
        assert probe(str(warm.run_dir), longest_clips(warm), 2, 1, CPU, seconds=0.2) is None
    assert multiprocessing.active_children() == []


def test_a_worker_that_fails_says_why(warm: Experiment, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)engine\.workers by hand.*not a run directory"):
        probe(str(tmp_path), longest_clips(warm), 1, 1, CPU)
    assert multiprocessing.active_children() == []


def test_out_of_memory_is_recognised() -> None:
    assert worker_count._out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert worker_count._out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert worker_count._out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not worker_count._out_of_memory(RuntimeError("shapes do not match"))


def test_a_number_set_by_hand_stands_and_cores_decide_on_a_cpu(
    warm: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cores(monkeypatch, 6)
    engine = replace(warm.config.engine, workers=5)
    assert pick_workers(replace(warm, config=replace(warm.config, engine=engine))) == 5
    engine = replace(engine, workers=None, threads_per_worker=2)
    assert pick_workers(replace(warm, config=replace(warm.config, engine=engine))) == 3


def test_on_a_gpu_memory_and_throughput_decide(warm: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision alone: there is no GPU in these tests."""
    speeds = {1: 10.0, 2: 18.0, 4: 30.0, 8: 31.0}
    tried: list[int] = []

    def probe(run_dir: str, client: Client, workers: int, threads: int, device: torch.device) -> worker_count.Probe:
        tried.append(workers)
        return worker_count.Probe(speeds[workers], bytes_per_worker=10)

    with_cores(monkeypatch, 16)
    monkeypatch.setattr(worker_count, "probe", probe)
    monkeypatch.setattr(worker_count, "pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (95, 100))
    config = replace(warm.config, device="auto", engine=replace(warm.config.engine, workers=None))
    assert pick_workers(replace(warm, config=config)) == 8  # 4 on each: a fifth to eighth would bring 3 %
    assert tried == [1, 2, 4, 8]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (25, 100))
    assert pick_workers(replace(warm, config=replace(config, device="cuda:0"))) == 2
