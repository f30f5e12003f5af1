"""train_fed.py with all the time that a clean stop takes on a busy machine; else it is cut short after some seconds."""

import sys

from asr_fed.commands import train
from tests.faults import FOR_EVER

if __name__ == "__main__":
    train.PATIENCE = FOR_EVER
    sys.argv[0] = "train_fed.py"
    sys.exit(train.main())
