"""The process in which a command of Flower runs."""

import os
import resource
import sys
from pathlib import Path

import pytest

from asr_fed.engines.deployment.flower import start_flower
from tests.waiting import PATIENCE


def tell_limit() -> None:
    """In place of the command."""
    print(resource.getrlimit(resource.RLIMIT_DATA)[0], flush=True)
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other things")
def test_it_has_no_more_memory_than_most_of_the_machines(tmp_path: Path) -> None:
    """What one message makes of itself ends in there, and not in the system's choice of a victim."""
    log = tmp_path / "log"
    process = start_flower("flower-superlink", [], home=tmp_path / "home", log=log, before=tell_limit)
    process.join(PATIENCE)
    assert process.exitcode == 0
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < int(log.read_text()) < machine
