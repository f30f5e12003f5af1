"""`python -m asr_fed.evaluation`."""

import sys

from asr_fed.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
