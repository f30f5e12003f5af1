"""Open a trained recogniser: a run directory, a checkpoint, a folder of SpeechBrain, or an exported one of
transformers."""

from pathlib import Path

from asr_fed.interop.huggingface_writer import RECOGNISER
from asr_fed.interop.speechbrain.reader import HYPERPARAMS, open_speechbrain_folder
from asr_fed.model.recogniser import Recogniser, load_recogniser
from asr_fed.system.errors import UserError

OF_A_RUN = ("federated.pt", "central.pt", "warm_start.pt")  # a run's own recogniser is the first of these that exists


def open_recogniser(path: str | Path) -> Recogniser:
    """The recogniser of a run directory, of a checkpoint, or of a folder that `asr_fed.export` or SpeechBrain has
    written.

    Raises UserError where there is none.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is nothing at {path}. Give a run directory, a checkpoint or a SpeechBrain folder.")
    if (path / HYPERPARAMS).is_file():
        return open_speechbrain_folder(path)
    if (path / RECOGNISER).is_file():
        return load_recogniser(path / RECOGNISER)
    return load_recogniser(checkpoint_of_run(path) if path.is_dir() else path)


def checkpoint_of_run(run_dir: Path) -> Path:
    """Raises UserError where the run has not trained a recogniser yet."""
    for name in OF_A_RUN:
        if (run_dir / "checkpoints" / name).is_file():
            return run_dir / "checkpoints" / name
    raise UserError(f"{run_dir} holds no recogniser: a run directory has checkpoints/{OF_A_RUN[0]} when it has ended.")
