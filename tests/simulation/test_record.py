"""The rows that the virtual clock leaves: what is written is read again, and what is no number is named."""

from pathlib import Path

import pytest

from asr_fed.simulation.record import (
    CLIENTS,
    ClientTime,
    RoundTime,
    read_client_times,
    read_round_times,
    write_client_times,
    write_round_times,
)
from asr_fed.system.errors import UserError

CLIENT = ClientTime(1, "anna, 2", "Pixel 4", 0.1, 1 / 3, 2.5, 0.0, 4_000_000, 8_000_000, True, 0.75, 12.5, 3)
LATE = ClientTime(2, "bert", "Note 5", 0.2, 7.0, 0.0, 0.0, 4_000_000, 0, False, 0.0)


def test_what_is_written_is_read_again_in_every_bit(tmp_path: Path) -> None:
    rounds = [RoundTime(1, 0.0, 61.3, 1.1, 3, 2)]
    write_client_times(tmp_path, [CLIENT, LATE])
    write_round_times(tmp_path, rounds)
    assert read_client_times(tmp_path) == [CLIENT, LATE]
    assert read_round_times(tmp_path) == rounds
    assert CLIENT.busy_s == 0.1 + 1 / 3 + 2.5


def test_a_run_without_a_clock_has_no_rows(tmp_path: Path) -> None:
    assert read_client_times(tmp_path) == read_round_times(tmp_path) == []
    write_client_times(tmp_path, [])
    assert read_client_times(tmp_path) == []


def test_the_columns_that_others_read(tmp_path: Path) -> None:
    write_client_times(tmp_path, [CLIENT])
    head = (tmp_path / CLIENTS).read_text().splitlines()[0]
    agreed = "round,client,device,download_s,compute_s,upload_s,idle_s,bytes_down,bytes_up,arrived,share_of_work"
    assert head.startswith(agreed)


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    write_client_times(tmp_path, [CLIENT])
    path = tmp_path / CLIENTS
    path.write_text(path.read_text().replace("8000000", "many"))
    with pytest.raises(UserError, match=r"line 2: bytes_up 'many' is not a number"):
        read_client_times(tmp_path)
