"""Token hypotheses: CTC's rule by hand, and for every decoder the same alone and in company."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.tokenizer import BLANK
from asr_fed.model.decoding import ctc_greedy, decode
from asr_fed.model.recogniser import Recogniser
from tests.tiny import alone, random_batch, tiny_recogniser

FRAMES = [120, 31, 64, 9, 90]
CONFIG = EvaluationConfig(beam_size=4)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """Random weights, drawn larger than usual so that hypotheses are long and differ."""
    built = tiny_recogniser()
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
        built.model.decoder_head.w.bias[1:3] = -1.0  # no early end
        built.model.feature_mean.fill_(-10)
        built.model.feature_deviation.fill_(5)
    return built


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_ctc_greedy_merges_then_drops_blanks(path: list[int]) -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[*path, 3, 3, 3]]), 5).float()  # three frames of padding
    expected = []
    for previous, label in zip([None, *path], path, strict=False):
        if label not in (previous, BLANK):
            expected.append(label)
    assert ctc_greedy(scores, torch.tensor([len(path)])) == [expected]


@pytest.mark.parametrize("decoder", list(Decoder))
def test_a_hypothesis_does_not_depend_on_the_batch(recogniser: Recogniser, decoder: Decoder) -> None:
    batch = random_batch(FRAMES, recogniser.tokenizer)
    together = decode(recogniser.model, batch, decoder, CONFIG)
    apart = [decode(recogniser.model, alone(batch, row), decoder, CONFIG)[0] for row in range(len(FRAMES))]
    assert [list(map(int, tokens)) for tokens in together] == [list(map(int, tokens)) for tokens in apart]
    lengths = {len(tokens) for tokens in together}
    assert len(lengths) > 1 and max(lengths) > 2, "the test needs hypotheses that tell something"
    counts = [-(-frames // recogniser.model.encoder.stride) for frames in FRAMES]
    assert all(len(tokens) <= count for tokens, count in zip(together, counts, strict=True))


@pytest.mark.parametrize("decoder", list(Decoder))
def test_decoding_leaves_no_trace(recogniser: Recogniser, decoder: Decoder) -> None:
    """The same again, and a model that can be copied and trained."""
    batch = random_batch([40, 20], recogniser.tokenizer)
    first = decode(recogniser.model, batch, decoder, CONFIG)
    assert decode(recogniser.model, batch, decoder, CONFIG) == first
    copy.deepcopy(recogniser.model)
    assert not recogniser.model.training


def test_beams_take_the_ctc_head_into_account(recogniser: Recogniser) -> None:
    batch = random_batch(FRAMES, recogniser.tokenizer)
    joint = decode(recogniser.model, batch, Decoder.beam, CONFIG)
    attention = decode(recogniser.model, batch, Decoder.beam, EvaluationConfig(beam_size=4, beam_ctc_weight=0.0))
    assert joint != attention
