"""Decode a set of utterances and count the errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asr_fed.config.schema import BatchConfig, Decoder, EvaluationConfig
from asr_fed.data.batching import collate, evaluation_batches
from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.wer import ErrorCounts, by_speaker, character_errors, word_errors
from asr_fed.model.decoding import decode
from asr_fed.model.recogniser import Recogniser


@dataclass(frozen=True)
class Evaluation:
    words: ErrorCounts
    characters: ErrorCounts
    speakers: dict[str, ErrorCounts]  # word errors
    hypotheses: dict[str, str]  # by utterance id

    @property
    def wer(self) -> float:
        """Percent."""
        return self.words.percent

    @property
    def cer(self) -> float:
        """Percent."""
        return self.characters.percent


def evaluate(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    cache: FeatureCache,
    decoder: Decoder,
    config: EvaluationConfig,
    device: torch.device,
    on_batch: Callable[[int], None] = lambda utterances: None,
) -> Evaluation:
    """WER and CER of `recogniser` on `utterances`; `on_batch` is told how many were decoded."""
    hypotheses = {}
    batches = BatchConfig(max_utterances=64, max_seconds=config.max_seconds_per_batch)
    for chunk in evaluation_batches(utterances, batches):
        batch = collate(chunk, cache, recogniser.tokenizer).to(device)
        for utterance, tokens in zip(chunk, decode(recogniser.model, batch, decoder, config), strict=True):
            hypotheses[utterance.id] = recogniser.tokenizer.decode(tokens)
        on_batch(len(chunk))
    references = [utterance.text for utterance in utterances]
    ordered = [hypotheses[utterance.id] for utterance in utterances]
    return Evaluation(
        words=word_errors(references, ordered),
        characters=character_errors(references, ordered),
        speakers=by_speaker([utterance.speaker for utterance in utterances], references, ordered),
        hypotheses=hypotheses,
    )
