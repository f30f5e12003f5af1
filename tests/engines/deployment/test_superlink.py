"""How the server's command ends when a part of it does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from asr_fed.commands.deployment import main
from asr_fed.engines.deployment import superlink
from asr_fed.engines.deployment.superlink import SuperLink


@pytest.mark.parametrize("part", ["flower-superlink", "proxy"])
def test_a_part_that_ends_by_itself_leaves_it_to_the_service_to_start_again(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one that the system killed because memory was short. 2 would end the service: see its unit."""
    (tmp_path / ("proxy.log" if part == "proxy" else "superlink.log")).write_text("its last words\n")

    @contextmanager
    def running(_settings: SuperLink) -> Iterator[list[BaseProcess]]:
        process = get_context("spawn").Process(target=os._exit, args=(9,), name=part)
        process.start()
        process.join()
        yield [process]

    monkeypatch.setattr(superlink, "running", running)
    assert main(["superlink", str(tmp_path), "--certificates", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert f"{part} ended by itself (exit code 9)" in told and "its last words" in told
