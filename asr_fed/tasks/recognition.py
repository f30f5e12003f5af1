"""From speech to text: the joint loss of CTC and attention, measured in word errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from asr_fed.config.schema import AugmentConfig, Decoder, EvaluationConfig, FeatureKind, LossConfig, Precision
from asr_fed.data.alignable import alignable
from asr_fed.data.batching import Batch, collate
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation, evaluate, mean_loss
from asr_fed.model.backbone import count_states
from asr_fed.model.recogniser import AcousticModel, Recogniser
from asr_fed.training.augment import augment_waveforms, spec_augment
from asr_fed.training.pauses import draw_pauses
from asr_fed.training.task import Place


@dataclass(frozen=True)
class Recognition:
    """A `Task` (asr_fed.training.task)."""

    recogniser: Recogniser
    cache: FeatureCache
    augment: AugmentConfig
    loss_config: LossConfig
    evaluation: EvaluationConfig
    precision: Precision
    device: torch.device

    @property
    def model(self) -> AcousticModel:
        return self.recogniser.model

    def collate(self, utterances: Sequence[Utterance], rng: np.random.Generator) -> Batch:
        """With normalised features, each utterance at a speed of its own."""
        drawn = [float(speed) for speed in rng.choice(list(self.augment.speeds), size=len(utterances))]
        if self.loss_config.ctc_weight > 0:  # CTC may align an utterance at its own speed but not at a faster one
            fits = alignable(self.cache, self.recogniser.tokenizer, partial(count_states, self.recogniser.model_config))
            pairs = zip(utterances, drawn, strict=True)
            drawn = [speed if fits(utterance, speed) else 1.0 for utterance, speed in pairs]
        features = self.recogniser.features
        pauses = draw_pauses(self.augment, features, rng)
        batch = collate(utterances, self.cache, self.recogniser.tokenizer, drawn, pauses).to(self.device)
        if features.kind is FeatureKind.waveform:
            return replace(batch, features=augment_waveforms(batch.features, self.augment, features))
        return replace(batch, features=spec_augment(self.model.normalise(batch.features), self.augment))

    def loss(self, batch: Batch, *, with_ctc: bool) -> torch.Tensor:
        return self.model.loss(batch.features, batch, self.loss_config, with_ctc=with_ctc)

    def evaluate(self, utterances: Sequence[Utterance], place: Place) -> Evaluation:
        return self.decode(
            utterances, self.evaluation.client_decoder if place == "client" else self.evaluation.dev_decoder
        )

    def decode(self, utterances: Sequence[Utterance], decoder: Decoder) -> Evaluation:
        return evaluate(self.recogniser, utterances, self.cache, decoder, self.evaluation, self.device)

    def mean_loss(self, utterances: Sequence[Utterance]) -> float:
        return mean_loss(self.recogniser, utterances, self.cache, self.loss_config, self.evaluation, self.device)
