"""python train_fed.py hparams/cv_fr.yaml [key=value ...]"""

import sys

from asr_fed.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
