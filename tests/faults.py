"""Weightings and an optimizer that go wrong on purpose; configs of tests name them as `_target_`."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_fed.aggregation.weighting import Measured, WerSoftmax

FOR_EVER = 3600  # seconds: longer than any test waits


@dataclass(frozen=True)
class Mishaps:
    """WerSoftmax, but the clients with so many utterances raise, weigh nothing sensible, or end their worker.

    The worker dies once, or as often as it is tried while a file `always` lies in `folder`; with a file `stuck` there
    it sleeps instead, and with a file `slow` until that is gone.
    """

    folder: str
    raises_at: int
    nan_at: int
    dies_at: int

    def __call__(self, client: Measured) -> float:
        folder, size = Path(self.folder), client.num_examples
        if size == self.raises_at:
            raise RuntimeError("the microphone fell down")
        if size == self.nan_at:
            return float("nan")
        if size == self.dies_at:
            if (folder / "stuck").exists():
                time.sleep(FOR_EVER)
            while (folder / "slow").exists():
                time.sleep(0.02)
            if (folder / "always").exists() or not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return WerSoftmax()(client)


# A plan in the environment of a run, which is no part of its config: FAULT_SIGNAL is sent to the server when client
# number FAULT_AT_CLIENT has been trained, or optimizer step number FAULT_AT_STEP is about to be made. FAULT_LOG gets
# a line with the process's id for each client.


@dataclass(frozen=True)
class Interruptible:
    """WerSoftmax in a worker that may send its server a signal."""

    def __call__(self, client: Measured) -> float:
        if log := os.environ.get("FAULT_LOG"):
            with open(log, "a") as file:
                file.write(f"{os.getpid()}\n")
                file.flush()
                own = file.tell()  # two workers may have written before either reads: each counts up to its own line
            if len(Path(log).read_text()[:own].split()) == int(os.environ.get("FAULT_AT_CLIENT", -1)):
                os.kill(os.getppid(), signal.Signals[os.environ["FAULT_SIGNAL"]])
                time.sleep(FOR_EVER)  # a worker outlives neither; without a fault in that, this is not slept through
        return WerSoftmax()(client)


class InterruptibleAdam(torch.optim.Adam):
    """Adam in a server that may send itself a signal."""

    steps = 0

    def __init__(self, params: Any, lr: float = 0.001) -> None:
        super().__init__(params, lr=lr)

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == int(os.environ.get("FAULT_AT_STEP", -1)):
            os.kill(os.getpid(), signal.Signals[os.environ["FAULT_SIGNAL"]])
        return super().step(closure)
