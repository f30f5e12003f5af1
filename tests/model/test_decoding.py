"""Token hypotheses: CTC's rule by hand, and for every decoder the same alone and in company."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import Decoder, EvaluationConfig, LossConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, EOS
from asr_fed.model.decoding import ctc_greedy, decode, decode_states
from asr_fed.model.recogniser import Recogniser
from tests.tiny import WORDS, alone, random_batch, tiny_recogniser

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


def test_a_beam_is_no_worse_than_greedy_on_what_a_decoder_knows_by_heart() -> None:
    """Label smoothing leaves the end a probability at every token. Where a hypothesis may end anywhere, some do."""
    model = tiny_recogniser(1, dropout=0.0, decoder_neurons=64, embedding=64, attention_dim=16)
    model, tokenizer = model.model, model.tokenizer
    random = torch.Generator().manual_seed(1)
    words = list(WORDS)
    texts = [" ".join(words[i] for i in torch.randint(0, len(words), (5,), generator=random)) for _ in range(4)]
    tokens = torch.tensor([tokenizer.encode(text) for text in texts])
    states, counts = torch.randn(4, 30, 8, generator=random), torch.full((4,), 30)
    batch = Batch((), states, counts, tokens, torch.full((4,), tokens.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model._nll(states, counts, batch, LossConfig().label_smoothing).backward()
        optimizer.step()
    model.eval()

    def wrong(decoder: Decoder, **search: float | None) -> int:
        config = EvaluationConfig(beam_size=4, beam_ctc_weight=0.0, **search)  # type: ignore[arg-type]
        heard = decode_states(model, states, counts, decoder, config)
        return sum(list(map(int, one)) != said for one, said in zip(heard, tokens.tolist(), strict=True))

    assert wrong(Decoder.attention_greedy) == 0
    assert wrong(Decoder.beam) == 0
    assert wrong(Decoder.beam, beam_eos_threshold=None) > 0, "the test needs a decoder that is tempted"


def test_a_hypothesis_ends_where_the_end_is_certain(recogniser: Recogniser) -> None:
    """With a log-probability of exactly 0, of which no multiple is less."""
    certain = copy.deepcopy(recogniser)
    with torch.no_grad():
        certain.model.decoder_head.w.bias[EOS] = 1e6
    batch = random_batch([40], recogniser.tokenizer)
    config = EvaluationConfig(beam_size=4, beam_ctc_weight=0.0)
    assert decode(certain.model, batch, Decoder.beam, config) == [[]]
