"""The command `python -m asr_fed.export`."""

import sys

from asr_fed.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
