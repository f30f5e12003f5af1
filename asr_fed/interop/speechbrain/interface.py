"""The two modules that SpeechBrain's EncoderDecoderASR asks for, computing what our decoder computes.

An exported folder contains the source of this file after those of log_mel.py, encoder.py and beam.py, in one module. So
their names are defined when it runs, and nothing of asr_fed is imported.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from asr_fed.data.log_mel import log_mel
    from asr_fed.model.encoder import Encoder


class SpeechEncoder(nn.Module):
    """Waveforms [batch, samples] and their relative lengths [batch] -> states [batch, time, neurons].

    States are zero after each utterance's end, by which the decoder recognises the end.
    """

    def __init__(
        self,
        compute_features: nn.Module,
        subtract_mean: bool,
        mean_gate_db: float | None,
        normalize: nn.Module,
        model: "Encoder",
    ) -> None:
        super().__init__()
        self.compute_features = compute_features
        self.subtract_mean = subtract_mean
        self.mean_gate_db = mean_gate_db
        self.normalize = normalize
        self.model = model

    def forward(self, wavs: torch.Tensor, wav_lens: torch.Tensor) -> torch.Tensor:
        samples = (wav_lens * wavs.shape[1]).round().int()
        # One after another, as in training: the frames of an utterance do not depend on the others.
        frames = [
            log_mel(wav[:count], self.compute_features, self.subtract_mean, self.mean_gate_db).float()
            for wav, count in zip(wavs, samples, strict=True)
        ]
        counts = torch.tensor([len(one) for one in frames], device=wavs.device)
        padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
        states: torch.Tensor = self.model(self.normalize(padded), counts)[0]
        return states


class TokenDecoder(nn.Module):
    """States -> tokens of the text, each utterance by itself, without special tokens.

    `search` is one of SpeechBrain's searchers, or CtcGreedy.
    """

    def __init__(self, search: nn.Module, first_spoken: int) -> None:
        super().__init__()
        self.search = search
        self.first_spoken = first_spoken

    def forward(self, states: torch.Tensor, wav_lens: torch.Tensor) -> tuple[list[list[int]], None, None, None]:
        """The tuple of four that EncoderDecoderASR expects: tokens, and None three times."""
        hypotheses = []
        for one in states:
            real = one.any(dim=-1).nonzero()
            end = int(real[-1]) + 1 if len(real) else 1
            tokens, *_ = self.search(one[None, :end], torch.ones(1, device=states.device))
            hypotheses.append([int(token) for token in tokens[0] if token >= self.first_spoken])
        return hypotheses, None, None, None


class CtcGreedy(nn.Module):
    """A greedy search with the CTC head alone."""

    def __init__(self, ctc_lin: Callable[[torch.Tensor], torch.Tensor], blank_index: int) -> None:
        super().__init__()
        self.ctc_lin = ctc_lin
        self.blank_index = blank_index

    def forward(self, states: torch.Tensor, wav_len: torch.Tensor) -> tuple[list[list[int]], Any]:
        """Search in states without padding."""
        path = self.ctc_lin(states).float().log_softmax(-1).argmax(-1)
        merged = [torch.unique_consecutive(one) for one in path]
        return [one[one != self.blank_index].tolist() for one in merged], wav_len
