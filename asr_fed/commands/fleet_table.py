"""`python -m asr_fed.simulation`: tables from what FLASH or FedScale have measured, and time without training."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from asr_fed.commands.account import account, add_account, add_plan, plan_rounds
from asr_fed.simulation.traces import KINDS, convert
from asr_fed.system.exit_status import exit_status

ACCOUNT, PLAN = "account", "plan"
TABLE = """\
Make a table for simulation.devices, simulation.network or simulation.availability from files of FLASH or FedScale:
JSON, or CSV but for activity traces. docs/time_and_carbon.md lists the columns. Nothing is unpickled.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m asr_fed.simulation")
    kinds = parser.add_subparsers(
        dest="kind", required=True, metavar=f"{{{','.join([ACCOUNT, PLAN, *sorted(KINDS)])}}}"
    )
    add_account(kinds.add_parser(ACCOUNT, help="a finished run by the clock of another fleet"))
    add_plan(kinds.add_parser(PLAN, help="how long rounds would take that nobody has trained"))
    for kind in sorted(KINDS):
        table = kinds.add_parser(kind, description=TABLE)
        table.add_argument("file", type=Path, help="what was measured")
        table.add_argument("table", type=Path, help="the CSV file to write")
    chosen = parser.parse_args(arguments)
    if chosen.kind == ACCOUNT:
        return exit_status("asr_fed.simulation", lambda: account(chosen.run, chosen.new, chosen.changes, chosen.trust))
    if chosen.kind == PLAN:
        return exit_status("asr_fed.simulation", lambda: plan_rounds(chosen.run, chosen.changes, chosen.trust))
    return exit_status("asr_fed.simulation", lambda: convert(chosen.kind, chosen.file, chosen.table))
