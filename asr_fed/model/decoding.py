"""From encoder states to token sequences: CTC greedy, attention greedy, joint attention/CTC beam search."""

import torch
from speechbrain.decoders.seq2seq import S2SRNNGreedySearcher

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, BOS, EOS
from asr_fed.model.joint_search import beam_search
from asr_fed.model.recogniser import AcousticModel

# A hypothesis has at most one token per encoder frame.
TOKENS_PER_FRAME = 1.0


@torch.no_grad()
def decode(model: AcousticModel, batch: Batch, decoder: Decoder, config: EvaluationConfig) -> list[list[int]]:
    """Token hypotheses of a batch; each depends only on its own utterance.

    The model is left in evaluation mode.
    """
    model.eval()
    return decode_states(model, *model.encode(batch), decoder, config)


@torch.no_grad()
def decode_states(
    model: AcousticModel, states: torch.Tensor, counts: torch.Tensor, decoder: Decoder, config: EvaluationConfig
) -> list[list[int]]:
    """`decode` for encoder states: states [batch, time, neurons] and their number [batch], from a model in evaluation
    mode."""
    if decoder is Decoder.ctc_greedy:
        return ctc_greedy(model.ctc_log_probs(states), counts)
    if decoder is Decoder.attention_greedy:
        return _attention_greedy(model, states, counts)
    return beam_search(model, states, counts, config)


def ctc_greedy(log_probs: torch.Tensor, counts: torch.Tensor) -> list[list[int]]:
    """The best label of each frame; repetitions are merged, blanks removed."""
    hypotheses = []
    for path, count in zip(log_probs.argmax(-1), counts, strict=True):
        merged = torch.unique_consecutive(path[:count])
        hypotheses.append(merged[merged != BLANK].tolist())
    return hypotheses


def _attention_greedy(model: AcousticModel, states: torch.Tensor, counts: torch.Tensor) -> list[list[int]]:
    searcher = S2SRNNGreedySearcher(
        embedding=model.embedding,
        decoder=model.decoder,
        linear=model.decoder_head,
        bos_index=BOS,
        eos_index=EOS,
        min_decode_ratio=0.0,
        max_decode_ratio=TOKENS_PER_FRAME,
    )
    hypotheses, *_ = searcher(states, counts / states.shape[1])
    model.decoder.attn.reset()
    # A hypothesis that did not end was searched for the length of the longest utterance: cut it to its own length.
    return [tokens[: int(count)] for tokens, count in zip(hypotheses, counts, strict=True)]
