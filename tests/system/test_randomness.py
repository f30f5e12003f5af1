"""Random numbers belong to a place in a run, not to what happened before."""

import hashlib
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.runs.experiment import pick_device
from asr_fed.system.randomness import derived_seed, generator, seed_everything

places = st.lists(st.text(max_size=6) | st.integers(-5, 5), max_size=3).map(tuple)


def test_a_seed_is_the_same_in_every_process_and_release() -> None:
    digest = hashlib.sha256(b"(7, 'client', 3, 'client_0001')").digest()
    expected = int.from_bytes(digest[:8], "little") >> 1
    assert derived_seed(7, "client", 3, "client_0001") == expected


@given(st.integers(0, 9), places, st.integers(0, 9), places)
def test_another_place_or_seed_is_another_stream(first: int, here: tuple, second: int, there: tuple) -> None:
    same = derived_seed(first, *here) == derived_seed(second, *there)
    assert same == ((first, here) == (second, there))
    assert 0 <= derived_seed(first, *here) < 2**63


def test_all_generators_are_seeded_whatever_came_before() -> None:
    def draw() -> tuple[float, float, float]:
        rng = seed_everything(1, "epoch", 4)
        return rng.random(), torch.rand(1).item(), random.random()

    first = draw()
    torch.rand(17), random.random(), np.random.default_rng().random()
    assert draw() == first
    assert generator(1, "epoch", 4).random() == first[0]
    seed_everything(1, "epoch", 5)
    assert torch.rand(1).item() != first[1]


def test_cuda_adds_up_in_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is as before at the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        assert pick_device("auto", worker=3) == torch.device("cuda", 1)
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_cpu_is_left_as_it_is() -> None:
    pick_device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
