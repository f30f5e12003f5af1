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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count other things")
def test_a_lower_limit_stays() -> None:
    """Such as that of a node's owner, where a process of Flower would set its own."""
    code = f"from asr_fed.system.processes import limit_memory\nlimit_memory({512 << 20}){TRY}"
    done = subprocess.run([sys.executable, "-c", code, str(4 << 30)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"
