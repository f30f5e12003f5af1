"""The command `python -m asr_fed.simulation`."""

import sys

from asr_fed.commands.fleet_table import main

if __name__ == "__main__":
    sys.exit(main())
