"""`python -m asr_fed.carbon`."""

import sys

from asr_fed.commands.carbon import main

if __name__ == "__main__":
    sys.exit(main())
