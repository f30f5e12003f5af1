"""`python -m asr_fed.simulation KIND FILE TABLE`: a table of a fleet from what FLASH or FedScale have measured."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from asr_fed.simulation.traces import KINDS, convert
from asr_fed.system.exit_status import exit_status

DESCRIPTION = """\
Make a table for simulation.devices, simulation.network or simulation.availability from files of FLASH or FedScale, as
JSON or CSV. Nothing is unpickled.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m asr_fed.simulation", description=DESCRIPTION)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("file", type=Path, help="what was measured")
    parser.add_argument("table", type=Path, help="the CSV file to write")
    chosen = parser.parse_args(arguments)
    return exit_status("asr_fed.simulation", lambda: convert(chosen.kind, chosen.file, chosen.table))
