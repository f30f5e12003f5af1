"""Decode a set of utterances and count the errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from asr_fed.config.schema import BatchConfig, Decoder, EvaluationConfig, LossConfig
from asr_fed.data.alignable import alignable
from asr_fed.data.batching import collate, evaluation_batches
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.wer import ErrorCounts, Scored, score, total
from asr_fed.model.backbone import count_states
from asr_fed.model.decoding import decode
from asr_fed.model.recogniser import Recogniser


@dataclass(frozen=True)
class Evaluation:
    """Every utterance with its hypothesis; all numbers are computed from these."""

    scored: tuple[Scored, ...]

    @property
    def words(self) -> ErrorCounts:
        return total(each.words for each in self.scored)

    @property
    def characters(self) -> ErrorCounts:
        return total(each.characters for each in self.scored)

    @property
    def errors(self) -> ErrorCounts:
        return self.words

    @property
    def merit(self) -> float:
        return self.wer

    @property
    def numbers(self) -> dict[str, float]:
        return {"wer": self.wer, "cer": self.cer}

    @property
    def wer(self) -> float:
        """Percent."""
        return self.words.percent

    @property
    def cer(self) -> float:
        """Percent."""
        return self.characters.percent

    @property
    def speakers(self) -> dict[str, ErrorCounts]:
        """Word errors of each speaker, by speaker."""
        return {
            speaker: total(each.words for each in own)
            for speaker, own in sorted(group_by(self.scored, "speaker").items())
        }

    @property
    def hypotheses(self) -> dict[str, str]:
        """By utterance id."""
        return {each.utterance.id: each.hypothesis for each in self.scored}


def group_by(scored: Sequence[Scored], column: str) -> dict[str, list[Scored]]:
    """Word errors by the value of a field of the utterances, such as `speaker`."""
    groups: dict[str, list[Scored]] = {}
    for each in scored:
        groups.setdefault(getattr(each.utterance, column), []).append(each)
    return groups


def describe_decoder(decoder: Decoder, config: EvaluationConfig) -> dict[str, Any]:
    """The decoder, and for a beam search all its settings, by name."""
    settings = {name: value for name, value in vars(config).items() if name.startswith("beam_")}
    return {"decoder": decoder.name} | (settings if decoder is Decoder.beam else {})


def evaluate(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    cache: FeatureCache,
    decoder: Decoder,
    config: EvaluationConfig,
    device: torch.device,
    on_batch: Callable[[int], None] = lambda utterances: None,
) -> Evaluation:
    """Recognise `utterances`, in their order; `on_batch` is called with the number of utterances decoded."""
    hypotheses = {}
    for chunk in evaluation_batches(utterances, _batches(config)):
        batch = collate(chunk, cache, recogniser.tokenizer).to(device)
        for utterance, tokens in zip(chunk, decode(recogniser.model, batch, decoder, config), strict=True):
            hypotheses[utterance.id] = recogniser.tokenizer.decode(tokens)
        on_batch(len(chunk))
    return Evaluation(score(utterances, [hypotheses[utterance.id] for utterance in utterances]))


@torch.no_grad()
def mean_loss(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    cache: FeatureCache,
    loss: LossConfig,
    config: EvaluationConfig,
    device: torch.device,
) -> float:
    """The training loss of `utterances` without dropout and augmentation: the mean over utterances.

    Dev speech may hold some that CTC cannot align. Their loss is infinite: where CTC counts, they do not.
    """
    model, added = recogniser.model, 0.0
    model.eval()
    fits = alignable(cache, recogniser.tokenizer, partial(count_states, recogniser.model_config))
    speech = [utterance for utterance in utterances if loss.ctc_weight == 0 or fits(utterance, 1.0)]
    for chunk in evaluation_batches(speech, _batches(config)):
        batch = collate(chunk, cache, recogniser.tokenizer).to(device)
        added += float(model.loss(model.normalise(batch.features), batch, loss, with_ctc=True)) * len(chunk)
    return added / max(1, len(speech))


def _batches(config: EvaluationConfig) -> BatchConfig:
    return BatchConfig(max_utterances=64, max_seconds=config.max_seconds_per_batch)
