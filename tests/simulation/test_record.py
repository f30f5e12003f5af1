"""The rows that the virtual clock leaves: what is written is read again, a kill costs nothing, and what is no number is
named."""

from dataclasses import replace
from pathlib import Path

import pytest

from asr_fed.simulation.record import (
    CLIENTS,
    ROUNDS,
    ClientTime,
    RoundTime,
    append_times,
    forget_after,
    read_client_times,
    read_round_times,
)
from asr_fed.system.errors import UserError

CLIENT = ClientTime(1, "anna, 2", "Pixel 4", 0.1, 1 / 3, 2.5, 0.0, 4_000_000, 8_000_000, True, 0.75, 12.5, 3)
LATE = ClientTime(1, "bert", "Note 5", 0.2, 7.0, 0.0, 0.0, 4_000_000, 0, False, 0.0)
ROUND = RoundTime(1, 0.0, 61.3, 1.1, 3, 2)


def test_what_is_written_is_read_again_in_every_bit(tmp_path: Path) -> None:
    second = [replace(CLIENT, round=2)], replace(ROUND, round=2)
    append_times(tmp_path, [CLIENT, LATE], ROUND)
    append_times(tmp_path, *second)
    assert read_client_times(tmp_path) == [CLIENT, LATE, *second[0]]
    assert read_round_times(tmp_path) == [ROUND, second[1]]


def test_a_run_without_a_clock_has_no_rows(tmp_path: Path) -> None:
    forget_after(tmp_path, 3)
    assert read_client_times(tmp_path) == read_round_times(tmp_path) == []


def test_the_columns_that_others_read(tmp_path: Path) -> None:
    append_times(tmp_path, [CLIENT], ROUND)
    head = (tmp_path / CLIENTS).read_text().splitlines()[0]
    agreed = "round,client,device,download_s,compute_s,upload_s,idle_s,bytes_down,bytes_up,arrived,share_of_work"
    assert head.startswith(agreed)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_round_that_a_kill_has_cut_is_forgotten(tmp_path: Path, cut: int) -> None:
    append_times(tmp_path, [CLIENT, LATE], ROUND)
    append_times(tmp_path, [replace(CLIENT, round=2)], replace(ROUND, round=2))
    for name in (CLIENTS, ROUNDS):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-cut])
    forget_after(tmp_path, 1)
    assert read_client_times(tmp_path) == [CLIENT, LATE] and read_round_times(tmp_path)[:1] in ([ROUND], [])
    forget_after(tmp_path, 0)
    append_times(tmp_path, [CLIENT], ROUND)
    assert read_client_times(tmp_path) == [CLIENT]


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    append_times(tmp_path, [CLIENT], ROUND)
    path = tmp_path / CLIENTS
    path.write_text(path.read_text().replace("8000000", "many"))
    with pytest.raises(UserError, match=r"line 2: bytes_up 'many' is not a number"):
        read_client_times(tmp_path)
