"""Where a long recording is cut."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.transcribe.windows import cut_into_windows, quietest_place

RATE = 1000


def noise(samples: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@given(
    lengths=st.lists(st.integers(0, 7000), max_size=6),
    seconds=st.sampled_from([1.0, 2.5, 20.0]),
)
def test_windows_are_the_recording_and_none_is_too_long(lengths: list[int], seconds: float) -> None:
    blocks = [noise(length, seed) for seed, length in enumerate(lengths)]
    windows = list(cut_into_windows(blocks, RATE, seconds))
    assert torch.equal(torch.cat([torch.empty(0), *windows]), torch.cat([torch.empty(0), *blocks]))
    assert all(0 < len(window) <= seconds * RATE for window in windows)
    assert all(len(window) >= seconds * RATE / 2 for window in windows[:-1])


def test_one_that_fits_is_not_cut() -> None:
    assert [len(window) for window in cut_into_windows([noise(2500)], RATE, 2.5)] == [2500]


def test_cuts_lie_in_the_middle_of_pauses() -> None:
    signal = noise(9500)
    for middle in (2400, 4700, 7000):
        signal[middle - 200 : middle + 200] = 0
    windows = list(cut_into_windows(signal.split(700), RATE, 3.0))
    ends = torch.tensor([len(window) for window in windows]).cumsum(0)
    torch.testing.assert_close(ends, torch.tensor([2400, 4700, 7000, 9500]), rtol=0, atol=10)


def test_a_long_pause_is_preferred_to_a_short_silence() -> None:
    signal = noise(3000)
    signal[500:600] = 0
    signal[2000:2300] *= 0.1
    assert 2100 < quietest_place(signal, RATE) < 2200


def test_of_silence_all_along_the_middle_is_taken() -> None:
    assert abs(quietest_place(torch.zeros(3000), RATE) - 1500) <= 10
