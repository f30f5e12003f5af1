"""`python -m asr_fed.transcribe`."""

import sys

from asr_fed.commands.transcribe import main

if __name__ == "__main__":
    sys.exit(main())
