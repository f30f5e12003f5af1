"""`python -m asr_fed.carbon SCENARIO.yaml [key=value ...]`: what a federation on paper would emit."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asr_fed.carbon.account import Account, summarise_account, write_account
from asr_fed.carbon.constants import TABLE
from asr_fed.carbon.scenario import read_scenario
from asr_fed.reporting.carbon import carbon_figure, carbon_table, describe_carbon
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import make_folder, replacing

DESCRIPTION = """\
Energy and emissions of a federation, and of the same training in a data centre, from a scenario file: rounds, clients,
seconds, devices, megabytes and countries. recipes/carbon/ has some. A key of the file can be changed behind it:

  python -m asr_fed.carbon recipes/carbon/resnet18.yaml federated.up_mbps=20

OUTPUT holds carbon.json, carbon.csv (a row for each round, country and phase) and carbon.png.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m asr_fed.carbon",
        description=DESCRIPTION,
        epilog=f"Every constant, with unit, bounds, year and source: {TABLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", type=Path, metavar="SCENARIO.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="of the scenario")
    parser.add_argument("--output", type=Path, help="folder to write (outputs/carbon/SCENARIO)")
    chosen = parser.parse_intermixed_args(arguments)
    output = chosen.output or Path("outputs/carbon") / chosen.scenario.stem
    return exit_status("asr_fed.carbon", lambda: account_for(chosen.scenario, chosen.changes, output))


def account_for(scenario: Path, changes: Sequence[str], output: Path) -> None:
    """Print the account of a scenario and write it to `output`. Raises UserError where it is not one."""
    account = read_scenario(scenario, changes)
    make_folder(output)
    write_account(output, account)
    with replacing(output / "carbon.png") as path:
        carbon_figure(account).savefig(path, format="png", dpi=120)
    show(account, Console(highlight=False, markup=False, emoji=False))
    print(f"This account is in {output}.")


def show(account: Account, console: Console) -> None:
    console.print(carbon_table(account))
    for sentence in describe_carbon(summarise_account(account, None)):
        console.print(sentence, soft_wrap=True)
