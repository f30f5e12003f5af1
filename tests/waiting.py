"""Waiting for what other processes and threads do, on a machine of any speed."""

import time
from collections.abc import Callable

PATIENCE = 300.0  # seconds: on the busiest machine only what hangs takes so long


def wait_until(
    happened: Callable[[], object], what: Callable[[], object] = lambda: "", patience: float = PATIENCE
) -> None:
    """Return once it has happened. Raises AssertionError, with what `what` tells then, where that takes for ever."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what()}"
        time.sleep(0.02)
