"""SpeechBrain's beam search with two other rules: when a hypothesis may end, and how far its attention may move.

An exported folder carries this file's source: nothing of asr_fed is imported here when it runs.
"""

from typing import Any

import torch
from speechbrain.decoders.seq2seq import AlivedHypotheses, S2SRNNBeamSearcher


class BeamSearcher(S2SRNNBeamSearcher):  # type: ignore[misc]  # SpeechBrain has no types
    """A hypothesis may end where log p(eos) >= eos_threshold * max log p.

    SpeechBrain requires >, which is never true for a decoder that is certain of the end (log-probability 0).

    The attention's peak may move by at most max_attn_shift frames per token, unless all hypotheses of an utterance
    exceed that: SpeechBrain would then continue with arbitrary tokens, the first of the vocabulary.
    """

    def search_step(self, alived_hyps: AlivedHypotheses, *state: Any) -> Any:
        self._alive = alived_hyps.sequence_scores > -torch.inf
        return super().search_step(alived_hyps, *state)

    def _check_attn_shift(self, attn: torch.Tensor, prev_attn_peak: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """bool [hypotheses, 1]: which may continue; and the attention's peaks."""
        near, peak = super()._check_attn_shift(attn, prev_attn_peak)
        some = (near[:, 0] & self._alive).view(-1, self.beam_size).any(1)
        return near | ~some.repeat_interleave(self.beam_size)[:, None], peak

    def _check_eos_threshold(self, log_probs: torch.Tensor) -> torch.Tensor:
        """bool [hypotheses] of log_probs [hypotheses, vocabulary]."""
        likely: torch.Tensor = log_probs[:, self.eos_index] >= self.eos_threshold * log_probs.max(dim=-1).values
        return likely
