"""The joint beam search: SpeechBrain's hypotheses, which do not depend on the rest of the batch."""

from dataclasses import replace

import pytest
import torch
from speechbrain.decoders.ctc import CTCPrefixScore
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder

from asr_fed.config.schema import EvaluationConfig, ModelConfig
from asr_fed.data.tokenizer import BLANK, BOS, EOS
from asr_fed.model import joint_search
from asr_fed.model.beam import BeamSearcher
from asr_fed.model.joint_search import beam_search
from asr_fed.model.recogniser import AcousticModel
from tests.tiny import tiny_model_config

VOCABULARY, NEURONS = 17, 8
COUNTS = torch.tensor([16, 7, 27, 1, 12, 27, 2])


def build_model(seed: int = 5, end: float = 3.0) -> AcousticModel:
    """Random weights, drawn larger than usual so that hypotheses are long and differ."""
    config: ModelConfig = tiny_model_config(rnn_layers=1)
    torch.manual_seed(seed)
    model = AcousticModel(config, 16, VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
        model.decoder_head.w.bias[EOS] = end
    return model


def draw_states(seed: int) -> torch.Tensor:
    states = torch.randn(len(COUNTS), int(COUNTS.max()), NEURONS, generator=torch.Generator().manual_seed(seed))
    return states * (torch.arange(states.shape[1]) < COUNTS[:, None])[:, :, None]


@torch.no_grad()
def speechbrain(model: AcousticModel, states: torch.Tensor, config: EvaluationConfig) -> list[int]:
    """Of one utterance, without padding."""
    scorer = None
    if config.beam_ctc_weight > 0:
        ctc = CTCScorer(ctc_fc=model.ctc_head, blank_index=BLANK, eos_index=EOS)
        scorer = ScorerBuilder(full_scorers=[ctc], weights={"ctc": config.beam_ctc_weight})
    searcher = BeamSearcher(
        embedding=model.embedding,
        decoder=model.decoder,
        linear=model.decoder_head,
        bos_index=BOS,
        eos_index=EOS,
        min_decode_ratio=0.0,
        max_decode_ratio=1.0,
        beam_size=config.beam_size,
        using_eos_threshold=config.beam_eos_threshold is not None,
        eos_threshold=config.beam_eos_threshold,
        temperature=config.beam_temperature,
        using_max_attn_shift=config.beam_max_attention_shift is not None,
        max_attn_shift=config.beam_max_attention_shift,
        scorer=scorer,
    )
    tokens = searcher(states[None], torch.ones(1))[0][0]
    model.decoder.attn.reset()
    return [int(token) for token in tokens]


@pytest.mark.parametrize(
    ("weight", "threshold", "end"), [(0.0, None, 1.0), (0.0, 1.5, 1.0), (0.4, 1.5, 3.0), (0.9, None, 3.0)]
)
def test_the_hypotheses_are_those_of_speechbrain_for_each_utterance_alone(
    weight: float, threshold: float | None, end: float
) -> None:
    """Of those that end: at its last step SpeechBrain goes on with tokens for which CTC has no frames left."""
    config = EvaluationConfig(beam_size=5, beam_ctc_weight=weight, beam_eos_threshold=threshold)
    check_against_speechbrain(config, end)


@pytest.mark.parametrize(
    ("weight", "temperature", "shift", "end"), [(0.0, 1.5, None, 1.0), (0.0, 1.5, 3, 1.0), (0.4, 0.7, 5, 3.0)]
)
def test_so_they_are_with_a_temperature_and_a_bound_on_the_attention(
    weight: float, temperature: float, shift: int | None, end: float
) -> None:
    config = EvaluationConfig(
        beam_size=5, beam_ctc_weight=weight, beam_temperature=temperature, beam_max_attention_shift=shift
    )
    found = check_against_speechbrain(config, end)
    for name in ("beam_temperature", "beam_max_attention_shift"):
        without = replace(config, **{name: getattr(EvaluationConfig(), name)})
        assert without == config or check_against_speechbrain(without, end) != found, f"{name} changes nothing here"


def check_against_speechbrain(config: EvaluationConfig, end: float) -> list[list[list[int]]]:
    """What is found for two models."""
    ended, found = [], []
    for seed in range(2):
        model, states = build_model(seed, end), draw_states(seed)
        with torch.no_grad():
            ours = beam_search(model, states, COUNTS, config)
        found.append(ours)
        for row, count in enumerate(COUNTS.tolist()):
            theirs = speechbrain(model, states[row, :count], config)
            if len(theirs) < count - 1 or config.beam_ctc_weight == 0:
                assert ours[row] == theirs
                ended.append(tuple(theirs))
    assert len(set(ended)) > 3, "the test needs hypotheses that differ"
    return found


@pytest.mark.parametrize("numbers", [1, 5_000, 10**9])
def test_company_changes_nothing(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """One at a time, a few, all together; and in another order."""
    model, states, config = build_model(), draw_states(5), EvaluationConfig(beam_size=4)
    with torch.no_grad():
        alone = [
            beam_search(model, states[row : row + 1, :count], COUNTS[row : row + 1], config)[0]
            for row, count in enumerate(COUNTS)
        ]
        monkeypatch.setattr(joint_search, "NUMBERS", {"cpu": numbers})
        assert beam_search(model, states, COUNTS, config) == alone
        order = torch.arange(len(COUNTS)).flip(0)
        assert beam_search(model, states[order], COUNTS[order], config) == alone[::-1]
    assert len({len(tokens) for tokens in alone}) > 3, "the test needs hypotheses that end apart"


def test_a_hypothesis_stops_where_no_frame_is_left_for_another_token() -> None:
    model, states, config = build_model(end=-1e4), draw_states(5), EvaluationConfig(beam_size=4)
    with torch.no_grad():
        found = beam_search(model, states, COUNTS, config)
    assert [len(tokens) > 0 for tokens in found] == [count > 1 for count in COUNTS]
    assert all(len(tokens) <= count for tokens, count in zip(found, COUNTS, strict=True))


def test_prefix_scores_are_those_of_speechbrain() -> None:
    """Over some steps along random tokens, among them one twice in a row."""
    model, states = build_model(), draw_states(1)
    tokens = torch.randint(3, VOCABULARY, (6, len(COUNTS), 3), generator=torch.Generator().manual_seed(1))
    tokens[2] = tokens[1]
    with torch.no_grad():
        speech = joint_search._prepare(model, states, COUNTS)
        beam = joint_search._begin(model, speech, 3)
        log_probs = model.ctc_log_probs(states).clone()
    scorer, memory = CTCPrefixScore(log_probs, COUNTS, BLANK, EOS), None
    last = torch.full((len(COUNTS), 3), BOS)
    for chosen in tokens:
        theirs, memory = scorer.forward_step(last.flatten(), memory)
        prefixes = joint_search._prefix_scores(speech, beam)
        ours = prefixes - beam.prefix[:, :, None]
        # Where frames are left for the prefix: elsewhere SpeechBrain has great numbers in place of infinite ones.
        possible = (ours > -torch.inf) & (beam.prefix > -torch.inf)[:, :, None]
        torch.testing.assert_close(ours[possible].float(), theirs.view_as(ours)[possible], rtol=1e-4, atol=1e-3)
        assert (prefixes.float()[~possible] + 1e10 < memory[1].view_as(ours)[~possible] + 1e20).all()
        memory = scorer.permute_mem(memory, chosen + VOCABULARY * torch.arange(3))
        picked = prefixes.gather(2, chosen[:, :, None])[:, :, 0]
        beam = joint_search._extend_ctc(speech, beam, chosen, picked)
        beam = joint_search.replace(beam, tokens=torch.cat([beam.tokens, chosen[:, :, None]], 2))
        last = chosen
