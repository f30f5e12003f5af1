"""The folder of the experiments that come with asr_fed."""

from pathlib import Path


def choices(group: str) -> list[str]:
    """The names that a group of settings can be given, such as `server`: its files in hparams/."""
    return sorted(path.stem for path in (experiments_folder() / group).glob("*.yaml"))


def experiments_folder() -> Path:
    """hparams/ of the checkout, or its copy inside an installed wheel."""
    package = Path(__file__).parent.parent.absolute()
    return package / "hparams" if (package / "hparams").is_dir() else package.parent / "hparams"
