"""SpeechBrain's beam search, with a rule for when a hypothesis may end.

An exported folder carries this file's source: nothing of asr_fed is imported here when it runs.
"""

import torch
from speechbrain.decoders.seq2seq import S2SRNNBeamSearcher


class BeamSearcher(S2SRNNBeamSearcher):
    """A hypothesis may end where log p(eos) >= eos_threshold * max log p.

    SpeechBrain asks for more (>), which a decoder that is certain of the end, with a log-probability of 0, never
    reaches.
    """

    def _check_eos_threshold(self, log_probs: torch.Tensor) -> torch.Tensor:
        """bool [hypotheses] of log_probs [hypotheses, vocabulary]."""
        return log_probs[:, self.eos_index] >= self.eos_threshold * log_probs.max(dim=-1).values
