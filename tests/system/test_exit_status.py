"""How commands end: the exit status, and what stands on stderr."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr_fed.system.errors import PartLost, UserError
from asr_fed.system.exit_status import exit_status

REPOSITORY = Path(__file__).parents[2]
MODULES = ["compare", "deployment", "evaluation", "export", "personalise", "transcribe"]


def end(action: str) -> subprocess.CompletedProcess[str]:
    """A process that ends as a command does whose work is `action`; of its output somebody reads one line."""
    code = f"import os, signal, sys\nfrom asr_fed.system.exit_status import exit_status\n{action}\n"
    return subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -1; exit ${PIPESTATUS[0]}', sys.executable, code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def refuse() -> None:
    raise UserError("The door is shut.")


def lose() -> None:
    raise PartLost("The proxy has ended.")


def test_an_action_decides_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("program", lambda: None) == 0
    assert exit_status("program", lambda: 1) == 1
    assert capsys.readouterr() == ("", "")
    assert exit_status("program", refuse) == 2
    assert capsys.readouterr().err == "program: The door is shut.\n"
    assert exit_status("program", lose) == 1
    assert capsys.readouterr().err == "program: The proxy has ended.\n"


def test_an_error_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status("program", lambda: 1 / 0)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "nowhere/x cannot be written: Permission denied."),
        (errno.EROFS, "nowhere/x cannot be written: Read-only file system."),
        (errno.ENOENT, "nowhere/x cannot be used: No such file or directory."),
        (errno.ENOSPC, "There is no room left for nowhere/x."),
    ],
)
def test_a_file_that_the_system_withholds_is_one_sentence(
    number: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "nowhere/x")

    assert exit_status("program", fail) == 2
    assert capsys.readouterr().err == f"program: {told}\n"


def test_an_error_of_the_system_that_names_no_file_is_not_hidden() -> None:
    def fail() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(ConnectionRefusedError):
        exit_status("program", fail)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_it_without_a_word(name: str, status: int) -> None:
    stop = f"os.kill(os.getpid(), signal.{name}); signal.pause()"
    ended = end(f"def stop(): {stop}\nsys.exit(exit_status('program', stop))")
    assert (ended.returncode, ended.stderr) == (status, "")


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_has_gone_is_no_error(flush: bool) -> None:
    ended = end(f"sys.exit(exit_status('program', lambda: [print(i, flush={flush}) for i in range(100_000)]))")
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, "0\n", "")


def test_another_broken_pipe_is_an_error_of_ours() -> None:
    broken = "ours, theirs = os.pipe(); os.close(ours); os.write(theirs, b'x')"
    ended = end(f"def write():\n    {broken}\nsys.exit(exit_status('program', write))")
    assert ended.returncode == 1 and "BrokenPipeError" in ended.stderr


@pytest.mark.parametrize("module", MODULES)
def test_every_command_is_called_as_a_module(module: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", f"asr_fed.{module}", "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert shown.returncode == 0 and shown.stderr == ""
    assert f"usage: python -m asr_fed.{module}" in shown.stdout
