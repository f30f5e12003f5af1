"""python train_fed.py hparams/cv_fr.yaml [key=value ...]"""

from asr_fed.cli import main

if __name__ == "__main__":
    main()
