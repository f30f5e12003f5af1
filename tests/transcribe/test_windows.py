"""Where a long recording is cut."""

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.transcribe.windows import cut_into_windows, quietest_place

RATE = 1000
STEP = 32  # samples


def noise(samples: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def loud(block: torch.Tensor) -> torch.Tensor:
    """Of each step of a block, whether it is loud anywhere."""
    padded = torch.nn.functional.pad(block, (0, -len(block) % STEP))
    return padded.reshape(-1, STEP).abs().amax(1) > 0.2


def windows_of(blocks: Sequence[torch.Tensor], seconds: float) -> list[tuple[int, torch.Tensor]]:
    return list(cut_into_windows(blocks, RATE, seconds, loud))


@given(
    stretches=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 4000)), max_size=5),
    block=st.sampled_from([200, 1024, 7000, 20000]),
    seconds=st.sampled_from([1.0, 2.5, 20.0]),
)
def test_windows_are_all_that_is_spoken_once_and_none_is_too_long(
    stretches: list[tuple[int, int]], block: int, seconds: float
) -> None:
    spoken = [torch.ones(words) for words, _ in stretches]
    signal = torch.cat(
        [torch.empty(0), *(each for w, (_, p) in zip(spoken, stretches, strict=True) for each in (w, torch.zeros(p)))]
    )
    windows = windows_of(signal.split(block), seconds)
    left = signal.clone()
    stop = 0
    for first, window in windows:
        assert first >= stop and 0 < len(window) <= seconds * RATE
        stop = first + len(window)
        assert torch.equal(window, signal[first:stop])
        left[first:stop] = 0
    assert not left.any(), "something that was spoken is in no window"
    quiet = sum(len(window) - int(window.sum()) for _, window in windows)
    assert quiet <= 500 * max(1, len(windows)) + sum(min(pause, 600) for _, pause in stretches)


def test_of_a_pause_a_quarter_of_a_second_is_left_on_either_side() -> None:
    signal = torch.zeros(10_240)
    signal[2048:3072] = signal[6016:6400] = 1.0
    cuts = [(first, first + len(window)) for first, window in windows_of(signal.split(1024), 20)]
    assert cuts == [(2048 - 250, 3072 + 250), (6016 - 250, 6400 + 250)]


def test_a_short_pause_does_not_end_a_window() -> None:
    signal = torch.ones(5000)
    signal[2000:2400] = 0
    assert [len(window) for _, window in windows_of([signal], 20)] == [5000]


def test_silence_is_in_no_window() -> None:
    assert windows_of(torch.zeros(90_000).split(20_000), 20) == []


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    signal = noise(9500).clamp(min=0.3)
    for middle in (2400, 4700, 7000):
        signal[middle - 100 : middle + 100] = 0.25
    windows = [window for _, window in windows_of(signal.split(700), 3.0)]
    ends = torch.tensor([len(window) for window in windows]).cumsum(0)
    torch.testing.assert_close(ends, torch.tensor([2400, 4700, 7000, 9500]), rtol=0, atol=60)


def test_a_long_pause_is_preferred_to_a_short_silence() -> None:
    signal = noise(3000)
    signal[500:600] = 0
    signal[2000:2300] *= 0.1
    assert 2100 < quietest_place(signal, RATE) < 2200


def test_of_silence_all_along_the_middle_is_taken() -> None:
    assert abs(quietest_place(torch.zeros(3000), RATE) - 1500) <= 10
