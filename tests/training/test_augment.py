"""SpecAugment hides stretches of time and bands of the width and number that are asked for, and nothing else."""

import itertools

import pytest
import torch

from asr_fed.config.schema import AugmentConfig, FeatureConfig, FeatureKind
from asr_fed.training.augment import augment_waveforms, spec_augment

FRAMES, BANDS = 60, 40


def hidden(config: AugmentConfig, seed: int) -> torch.Tensor:
    """Which numbers of four utterances of ones are zero afterwards, bool [4, FRAMES, BANDS]."""
    torch.manual_seed(seed)
    return spec_augment(torch.ones(4, FRAMES, BANDS), config) == 0


def stretches(line: torch.Tensor) -> list[int]:
    """Lengths of the runs of what is hidden in a line, bool [n]."""
    return [len(list(run)) for hides, run in itertools.groupby(line.tolist()) if hides]


@pytest.mark.parametrize("of_time", [True, False])
def test_what_is_hidden_is_whole_stretches_as_wide_and_as_many_as_told(of_time: bool) -> None:
    drops = {"time_drops": 2, "frequency_drops": 0} if of_time else {"time_drops": 0, "frequency_drops": 2}
    config = AugmentConfig(**drops, time_drop_frames=7, frequency_drop_bands=5)
    width, found = (7 if of_time else 5), []
    for mask in (each for seed in range(100) for each in hidden(config, seed)):
        lines = mask.T if of_time else mask
        assert (lines == lines[0]).all(), "in one band or frame, and not in another"
        found.append(stretches(lines[0]))
    assert {len(each) for each in found} == {0, 1, 2}
    assert width < max(sum(each) for each in found) <= 2 * width
    # Two that touch are one; those at the end are cut.
    assert {length for each in found if len(each) == 2 for length in each} == set(range(1, width + 1))


def test_the_fewest_and_the_narrowest_are_as_told_too() -> None:
    """As the published code of arXiv 2104.14297 has them."""
    theirs = AugmentConfig(
        **{"least_time_drops": 5, "time_drops": 5, "least_time_drop_frames": 15, "time_drop_frames": 24},
        **{"least_frequency_drops": 2, "frequency_drops": 2, "least_frequency_drop_bands": 25},
        frequency_drop_bands=34,
    )
    times, bands = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        for mask in spec_augment(torch.ones(4, 1000, 800), theirs) == 0:
            times.append(stretches(mask[:, (~mask.all(dim=0)).nonzero()[0, 0]]))
            bands.append(stretches(mask[(~mask.all(dim=1)).nonzero()[0, 0]]))
    # Those that neither touch nor are cut at the end: with their number their widths are known.
    for found, number, widths in ((times, 5, range(15, 25)), (bands, 2, range(25, 35))):
        assert max(len(each) for each in found) == number
        whole = [each for each in found if len(each) == number]
        assert len(whole) > 100
        widest = [max(each) for each in whole]
        assert max(widest) == widths[-1]
        assert sorted(length for each in whole for length in each)[len(whole) // 5] >= widths[0]


def test_warping_moves_frames_and_hides_nothing() -> None:
    warped = AugmentConfig(time_drops=0, frequency_drops=0, warp_frames=5)
    rising = torch.arange(1.0, FRAMES + 1)[None, :, None].expand(2, FRAMES, BANDS)
    torch.manual_seed(1)
    found = spec_augment(rising.clone(), warped)
    assert found.shape == rising.shape and not torch.equal(found, rising)
    assert (found.diff(dim=1) >= 0).all() and (found > 0).all()
    assert torch.equal(spec_augment(rising.clone(), AugmentConfig(time_drops=0, frequency_drops=0)), rising)


def test_waveforms_lose_stretches_of_time_and_bands_of_the_spectrum() -> None:
    features = FeatureConfig(kind=FeatureKind.waveform)
    torch.manual_seed(3)
    noise = torch.randn(2, 16000, 1)
    off = {"time_drops": 0, "frequency_drops": 0}
    assert augment_waveforms(noise.clone(), AugmentConfig(**off), features).equal(noise)
    in_time = AugmentConfig(**(off | {"time_drops": 1, "least_time_drops": 1}), time_drop_frames=5)
    found = {
        length
        for _ in range(30)
        for each in augment_waveforms(noise.clone(), in_time, features)[..., 0] == 0
        for length in stretches(each)
    }
    assert 700 < max(found) <= 800, "5 frames of 10 ms"
    in_frequency = AugmentConfig(**(off | {"frequency_drops": 1, "least_frequency_drops": 1}))
    filtered = augment_waveforms(noise.clone(), in_frequency, features)
    assert filtered.shape == noise.shape
    before, after = (
        torch.fft.rfft(x[..., 0]).abs().square().mean(0)[:8000].view(80, 100).mean(1) for x in (noise, filtered)
    )
    lost = (after / before) < 0.1
    assert 1 <= int(lost.sum()) <= 16 and float(after.sum() / before.sum()) > 0.75
