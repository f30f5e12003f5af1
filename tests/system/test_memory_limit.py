"""A process that asks for more memory than it may have gets a MemoryError, and goes on."""

import subprocess
import sys

import pytest

TRY = """
import sys
from asr_fed.system.processes import limit_memory
limit_memory(int(sys.argv[1]))
try:
    bytearray(1 << 30)
except MemoryError:
    print("refused")
else:
    print("given")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other things")
@pytest.mark.parametrize(("most", "outcome"), [(512 << 20, "refused"), (4 << 30, "given")])
def test_no_more_memory_than_the_limit(most: int, outcome: str) -> None:
    done = subprocess.run([sys.executable, "-c", TRY, str(most)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == outcome
