"""Folders of generated corpora: named after what decides their content, and whole or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def digest(parameters: Mapping[str, object], generator: Iterable[str]) -> str:
    """Eight hex digits that change with the parameters and with every change of the files that generate."""
    code = [hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest() for name in generator]
    return hashlib.sha256(json.dumps([parameters, code], sort_keys=True).encode()).hexdigest()[:8]


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """An empty folder to fill, which becomes `folder` at the end; None where `folder` is there already.

    One process fills it at a time. What a killed one left is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # let go when the process ends, however it ends
        if folder.is_dir():
            yield None
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        os.rename(partial, folder)
