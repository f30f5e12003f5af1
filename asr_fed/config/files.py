"""The folder of the experiments that come with asr_fed."""

from pathlib import Path


def experiments_folder() -> Path:
    """hparams/ of the checkout, or its copy inside an installed wheel."""
    package = Path(__file__).parent.parent.absolute()
    return package / "hparams" if (package / "hparams").is_dir() else package.parent / "hparams"
