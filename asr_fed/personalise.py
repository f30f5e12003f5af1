"""The command `python -m asr_fed.personalise`."""

import sys

from asr_fed.commands.personalise import main

if __name__ == "__main__":
    sys.exit(main())
