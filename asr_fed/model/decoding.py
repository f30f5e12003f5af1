"""From encoder states to token sequences: CTC greedy, attention greedy, joint attention/CTC beam search."""

from typing import Any

import torch
from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder
from speechbrain.decoders.seq2seq import S2SRNNGreedySearcher

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, BOS, EOS
from asr_fed.model.beam import BeamSearcher
from asr_fed.model.recogniser import AcousticModel

# A hypothesis has at most one token an encoder frame.
TOKENS_PER_FRAME = 1.0


@torch.no_grad()
def decode(model: AcousticModel, batch: Batch, decoder: Decoder, config: EvaluationConfig) -> list[list[int]]:
    """Token hypotheses of a batch; each depends on its own utterance alone.

    The model is left in evaluation mode.
    """
    model.eval()
    return decode_states(model, *model.encode(batch), decoder, config)


@torch.no_grad()
def decode_states(
    model: AcousticModel, states: torch.Tensor, counts: torch.Tensor, decoder: Decoder, config: EvaluationConfig
) -> list[list[int]]:
    """`decode` of what a model in evaluation mode has encoded: states [batch, time, neurons], their number [batch]."""
    if decoder is Decoder.ctc_greedy:
        return ctc_greedy(model.ctc_log_probs(states), counts)
    if decoder is Decoder.attention_greedy:
        return _attention_greedy(model, states, counts)
    # The search stops when all utterances of a batch have enough hypotheses, so those that finish
    # first would be searched deeper in company: hence one at a time.
    return [
        hypothesis
        for index, count in enumerate(counts)
        for hypothesis in _beam(model, states[index : index + 1, :count], config)
    ]


def ctc_greedy(log_probs: torch.Tensor, counts: torch.Tensor) -> list[list[int]]:
    """Best label of each frame, repetitions merged, blanks removed."""
    hypotheses = []
    for path, count in zip(log_probs.argmax(-1), counts, strict=True):
        merged = torch.unique_consecutive(path[:count])
        hypotheses.append(merged[merged != BLANK].tolist())
    return hypotheses


def _search_arguments(model: AcousticModel) -> dict[str, Any]:
    return {
        "embedding": model.embedding,
        "decoder": model.decoder,
        "linear": model.decoder_head,
        "bos_index": BOS,
        "eos_index": EOS,
        "min_decode_ratio": 0.0,
        "max_decode_ratio": TOKENS_PER_FRAME,
    }


def _attention_greedy(model: AcousticModel, states: torch.Tensor, counts: torch.Tensor) -> list[list[int]]:
    searcher = S2SRNNGreedySearcher(**_search_arguments(model))
    hypotheses, *_ = searcher(states, counts / states.shape[1])
    model.decoder.attn.reset()
    # One that never ended was searched as long as the longest of its batch: cut it to its own length.
    return [tokens[: int(count)] for tokens, count in zip(hypotheses, counts, strict=True)]


def _beam(model: AcousticModel, states: torch.Tensor, config: EvaluationConfig) -> list[list[int]]:
    scorer = None
    if config.beam_ctc_weight > 0:
        ctc = CTCScorer(ctc_fc=model.ctc_head, blank_index=BLANK, eos_index=EOS)
        scorer = ScorerBuilder(full_scorers=[ctc], weights={"ctc": config.beam_ctc_weight})
    searcher = BeamSearcher(
        **_search_arguments(model),
        beam_size=config.beam_size,
        using_eos_threshold=config.beam_eos_threshold is not None,
        eos_threshold=config.beam_eos_threshold,
        scorer=scorer,
    )
    hypotheses, *_ = searcher(states, torch.ones(1, device=states.device))
    model.decoder.attn.reset()
    return hypotheses
