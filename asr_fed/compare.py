"""The command `python -m asr_fed.compare`."""

import sys

from asr_fed.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
