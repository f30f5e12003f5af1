"""Checkpoints that are whole or absent, and that execute no code when they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_fed.system.files import replacing

ARRAY = "ndarray as tensor"  # the one key of a dict that stands for a numpy array in a file


def save_checkpoint(content: Any, path: Path) -> None:
    """Write whole or not at all (see `replacing`, also for what it raises).

    `content` is made of dicts, lists, numbers, strings, bytes, tensors and numpy arrays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(_pack(content), file)
        except RuntimeError as error:  # after a failed write, torch reports only the failure to close its archive
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path) -> Any:
    """What `save_checkpoint` was given."""
    return _unpack(torch.load(path, map_location="cpu", weights_only=True))


def _pack(content: Any) -> Any:
    # torch's safe loader takes tensors but not numpy arrays.
    if isinstance(content, np.ndarray):
        return {ARRAY: torch.from_numpy(content)}
    if isinstance(content, dict):
        return {key: _pack(value) for key, value in content.items()}
    return [_pack(value) for value in content] if isinstance(content, list) else content


def _unpack(content: Any) -> Any:
    if isinstance(content, dict):
        if content.keys() == {ARRAY}:
            return content[ARRAY].numpy()
        return {key: _unpack(value) for key, value in content.items()}
    return [_unpack(value) for value in content] if isinstance(content, list) else content
