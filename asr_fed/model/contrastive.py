"""The contrast of wav2vec 2.0 (arXiv 2006.11477): an encoder learns to find what was masked among what was not there.

Its quantiser is left out, as in that paper's ablation with continuous targets.
"""

import torch
from torch import nn
from torch.nn import functional

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
        """Logits [masked states, masked states], -inf in other utterances, and where the right one is [masked states];
        the input is that of `Guesser`."""
        states, _ = self.encoder(masked, frames)
        context = self.head["context"](states[:, : mask.shape[1]][mask]).float()
        target = self.head["target"](by_state(clean, self.encoder.stride)[mask]).float()
        cosine = functional.normalize(context, dim=-1) @ functional.normalize(target, dim=-1).T
        utterance = mask.nonzero()[:, 0]
        elsewhere = utterance[:, None] != utterance
        logits = (cosine / self.temperature).masked_fill(elsewhere, -torch.inf)
        return logits, torch.arange(len(utterance), device=mask.device)
