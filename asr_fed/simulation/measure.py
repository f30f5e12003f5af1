"""The command `python -m asr_fed.simulation.measure`."""

import sys

from asr_fed.commands.measure import main

if __name__ == "__main__":
    sys.exit(main())
