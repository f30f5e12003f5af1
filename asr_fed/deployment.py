"""The command `python -m asr_fed.deployment`."""

import sys

from asr_fed.commands.deployment import main

if __name__ == "__main__":
    sys.exit(main())
