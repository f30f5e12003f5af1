"""What holds for all processes of a node."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_fed.engines.deployment import node
from asr_fed.engines.deployment.node import run_node
from asr_fed.engines.deployment.policy import Policy
from asr_fed.engines.deployment.settings import NodeSettings
from tests.engines.deployment.machine import free_port

LIMIT = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
FLOWERS = "from asr_fed.system.processes import limit_memory; limit_memory(10**12); "  # as a large machine would
GIGABYTES = 500  # more than this process has taken, or it could not go on


class Waits(Exception):
    """The node waits for its server."""


@pytest.fixture
def unlimited() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other things")
@pytest.mark.usefixtures("unlimited")
def test_each_process_of_a_node_has_the_memory_that_its_owner_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def wait(seconds: float) -> None:
        for code in (LIMIT, FLOWERS + LIMIT):  # a worker, and a process of Flower's
            told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            limits.append(int(told))
        raise Waits

    monkeypatch.setattr(node.time, "sleep", wait)
    settings = NodeSettings(
        "clinic",
        f"127.0.0.1:{free_port()}",
        str(tmp_path),
        partition=str(tmp_path),
        policy=Policy(memory_gigabytes=GIGABYTES),
    )
    with pytest.raises(Waits):
        run_node(settings)
    assert limits == [GIGABYTES * 10**9] * 2
