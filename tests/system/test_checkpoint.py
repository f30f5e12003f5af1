"""Checkpoints: what goes in comes out, and a file is whole or not there."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_fed.runs.records import write_history
from asr_fed.runs.summary import RunSummary, write_summary
from asr_fed.system.checkpoint import load_checkpoint, save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.system.files import NoRoom, replacing
from tests.runs.test_records import record


def test_nested_content_comes_back_with_its_types(tmp_path: Path) -> None:
    content = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "counts": np.array([1, -(2**62)], dtype=np.int64),
        "list": [np.array([1.5]), {"inner": np.zeros(0, dtype=np.float32)}, None],
        "tensor": torch.tensor([1.0]),
        "by number": {0: {"step": 3}},
        "plain": [1, 2.5, "text", b"bytes", True, float("inf"), 2**40],
    }
    save_checkpoint(content, tmp_path / "deep" / "a.pt")
    loaded = load_checkpoint(tmp_path / "deep" / "a.pt")
    for name in ("array", "counts"):
        assert loaded[name].dtype == content[name].dtype  # type: ignore[attr-defined]
        np.testing.assert_array_equal(loaded[name], content[name])
    assert isinstance(loaded["list"][0], np.ndarray) and loaded["list"][1]["inner"].shape == (0,)
    assert isinstance(loaded["tensor"], torch.Tensor)
    assert (loaded["plain"], loaded["by number"]) == (content["plain"], content["by number"])


def test_saving_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint({"n": 1}, path)
    save_checkpoint({"n": 2}, path)
    assert load_checkpoint(path) == {"n": 2}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint({"n": 1}, path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint({"n": lambda: 0}, path)
    assert load_checkpoint(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes of a file fail, as on a full disk, which only root could arrange for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 5_000, 400_000], ids=lambda size: f"{size} bytes of room")
def test_a_full_disk_leaves_the_old_checkpoint_and_is_told(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint({"n": 1}, path)
    with room_for(size), pytest.raises(NoRoom, match=r"no room left for .*a\.pt"):
        save_checkpoint({"n": 2, "tensor": torch.ones(100_000), "array": np.ones(3)}, path)
    assert load_checkpoint(path) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_full_disk_leaves_the_old_history_and_summary(tmp_path: Path) -> None:
    write_history(tmp_path, [record(1)])
    write_summary(tmp_path, RunSummary(9.0, 3.0, rounds=1))
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with room_for(10):
        with pytest.raises(NoRoom, match=r"history\.jsonl"):
            write_history(tmp_path, [record(1), record(2)])
        with pytest.raises(NoRoom, match=r"summary\.json"):
            write_summary(tmp_path, RunSummary(9.0, 3.0, rounds=2))
        with pytest.raises(NoRoom), replacing(tmp_path / "a.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.ones(10_000))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_file_that_cannot_be_written_for_another_reason_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pt").mkdir()
    (tmp_path / "a.pt" / "in_the_way").touch()
    with pytest.raises(UserError, match=r"a\.pt cannot be written") as raised:
        save_checkpoint({"n": 1}, tmp_path / "a.pt")
    assert not isinstance(raised.value, NoRoom)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_reading_executes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"n": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


def test_killed_while_saving_over_and_over_the_file_is_always_whole(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        import torch
        from asr_fed.system.checkpoint import save_checkpoint

        number = 0
        while True:
            number += 1
            save_checkpoint({"n": number, "same": torch.full((400_000,), number)}, Path(sys.argv[1]))
            print(number, flush=True)
    """
    path = tmp_path / "a.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        for _ in range(12):
            finished = int(process.stdout.readline())
            loaded = load_checkpoint(path)  # while the next is being written
            assert loaded["n"] >= finished and (loaded["same"] == loaded["n"]).all()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    loaded = load_checkpoint(path)
    assert loaded["n"] >= finished and (loaded["same"] == loaded["n"]).all()
