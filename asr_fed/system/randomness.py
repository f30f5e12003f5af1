"""Random numbers without hidden state.

Every random choice of a run comes from a new generator, made from the run's seed and the name of the place where it is
needed: ("client", round, client id), ("epoch", 3). A run that is resumed, or whose clients are trained in another order
or process, draws the same numbers, and no random state has to be saved.
"""

import hashlib
import os
import random

import numpy as np
import torch


def derived_seed(seed: int, *place: int | str) -> int:
    """A 63-bit seed for one place of a run."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *place: int | str) -> np.random.Generator:
    return np.random.default_rng(derived_seed(seed, *place))


def seed_everything(seed: int, *place: int | str) -> np.random.Generator:
    """Seed the libraries' global generators (dropout, augmentation) for this place; returns numpy's for the rest."""
    value = derived_seed(seed, *place)
    torch.manual_seed(value)
    random.seed(value)
    return np.random.default_rng(value)


def repeatable() -> None:
    """Have CUDA add numbers up in a fixed order from now on, in this process: the same bits from the same numbers.

    Where torch has no such kernel it warns and goes on (see "Reproducibility" in torch's notes).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
