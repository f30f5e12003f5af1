"""The contrast of wav2vec 2.0 (arXiv 2006.11477): an encoder learns to find what was masked among what was not there.

Its learned quantiser is left out, as in that paper's ablation with continuous targets, which did a little worse there.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr_fed.config.schema import ModelConfig, TaskConfig
from asr_fed.model.backbone import Backbone, by_state


class Contrastive(Backbone):
    """Normaliser, encoder, and a head of two projections: of the encoder's states, and of the features that they stand
    for.

    With c_t the projected state at a masked place t, q_t the projected features there and k the temperature, the loss
    of the logits is the paper's formula 3:

    L_t = -log exp(cos(c_t, q_t) / k) / sum_{q in Q_t} exp(cos(c_t, q) / k)

    Q_t is all that is masked in the same utterance, where the paper draws a hundred: nothing random, and nothing of
    another utterance, so that its channel and its speaker do not help to find q_t.
    """

    def __init__(self, config: ModelConfig, n_mels: int, task: TaskConfig) -> None:
        super().__init__(config, n_mels)
        features = n_mels * self.encoder.stride
        # FedVSSL takes what is called head as what stays with a client: both projections
        self.head = nn.ModuleDict(
            {"context": nn.Linear(config.states, task.code_dim), "target": nn.Linear(features, task.code_dim)}
        )
        self.temperature = task.temperature

    def guess(
        self, masked: torch.Tensor, clean: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [masked states, most masked states of an utterance], and the place of the right one, int64 [masked
        states]; the input is that of `BestRq.guess`.

        What is no candidate has -inf: the padding of utterances with fewer masked states, and features equal to the
        right ones, as in digital silence, which nobody could tell from them.
        """
        states, _ = self.encoder(masked, frames)
        counts = mask.sum(1).tolist()
        with torch.autocast(mask.device.type, enabled=False):  # bf16 has two digits, and cosines are divided by 0.1
            features = _by_utterance(by_state(clean, self.encoder.stride)[mask].float(), counts)
            hidden = _by_utterance(states[:, : mask.shape[1]][mask].float(), counts)
            context = functional.normalize(self.head["context"](hidden), dim=-1)
            target = functional.normalize(self.head["target"](features), dim=-1)
            logits = context @ target.transpose(1, 2) / self.temperature
        place = torch.arange(logits.shape[1], device=mask.device)
        real = place < mask.sum(1)[:, None]
        equal = (torch.cdist(features, features, p=torch.inf) == 0) & (place[:, None] != place)
        logits = logits.masked_fill(~real[:, None] | equal, -torch.inf)
        return logits[real], place.expand(len(mask), -1)[real]


def _by_utterance(masked: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Vectors of all masked states [masked states, n] -> [batch, most of an utterance, n], zero where it has fewer."""
    return pad_sequence(masked.split(counts), batch_first=True)
