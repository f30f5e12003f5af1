"""What a recogniser hears in speech without transcripts, and which of that is good enough to train on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr_fed.config.schema import AugmentConfig, BatchConfig, Decoder, PseudoLabelsConfig
from asr_fed.data.batching import collate, evaluation_batches
from asr_fed.data.manifest import Utterance
from asr_fed.data.tokenizer import BLANK
from asr_fed.evaluation.wer import character_errors
from asr_fed.model.decoding import ctc_greedy, decode_states
from asr_fed.tasks.recognition import Recognition


@dataclass(frozen=True)
class Hypothesis:
    """confidence: the geometric mean of its tokens' probabilities by CTC; 0 where CTC cannot align it.
    agreement: 1 - character error rate of the least alike hypothesis at another playback speed; 1 if there is none.
    """

    text: str
    confidence: float
    agreement: float = 1.0


def is_good(hypothesis: Hypothesis, seconds: float, settings: PseudoLabelsConfig) -> bool:
    """Whether it passes all filters, for a recording of so many seconds."""
    return (
        settings.min_rate <= len(hypothesis.text) / seconds <= settings.max_rate
        and hypothesis.text != ""
        and hypothesis.confidence > 0
        and hypothesis.confidence >= settings.min_confidence
        and hypothesis.agreement >= settings.min_agreement
    )


@torch.no_grad()
def hypotheses(
    training: Recognition, utterances: Sequence[Utterance], settings: PseudoLabelsConfig
) -> dict[str, Hypothesis]:
    """By id. Each depends on its own utterance and on the model alone, which is left in evaluation mode."""
    training.model.eval()
    limits = BatchConfig(max_utterances=64, max_seconds=training.evaluation.max_seconds_per_batch)
    speeds = [speed for speed in training.augment.speeds if speed != 1.0] if settings.min_agreement else []
    found = {}
    for chunk in evaluation_batches(utterances, limits):
        states, counts = _encode(training, chunk, 1.0)
        log_probs, decode = training.model.ctc_log_probs(states), training.recogniser.tokenizer.decode
        if settings.decoder is Decoder.ctc_greedy:
            best = ctc_greedy(log_probs, counts)
        else:
            best = decode_states(training.model, states, counts, settings.decoder, training.evaluation)
        texts = [decode(tokens) for tokens in best]
        agreements = [1.0] * len(chunk)
        for speed in speeds:
            others = ctc_greedy(*_log_probs(training, chunk, speed))
            alike = (likeness(text, decode(other)) for text, other in zip(texts, others, strict=True))
            agreements = list(map(min, agreements, alike))
        sure = confidences(log_probs, counts, [training.recogniser.tokenizer.encode(text) for text in texts])
        for each in zip(chunk, texts, sure, agreements, strict=True):
            found[each[0].id] = Hypothesis(*each[1:])
    return found


def confidences(log_probs: torch.Tensor, counts: torch.Tensor, tokens: Sequence[Sequence[int]]) -> list[float]:
    """P(tokens | speech)^(1 / tokens) over all alignments: log_probs [batch, time, vocabulary], counts [batch]."""
    lengths = torch.tensor([len(each) for each in tokens])
    targets = pad_sequence([torch.tensor(each, dtype=torch.int64) for each in tokens], batch_first=True)
    by_time = log_probs.transpose(0, 1).cpu()
    losses = functional.ctc_loss(by_time, targets, counts.cpu(), lengths, blank=BLANK, reduction="none")
    found: list[float] = (-losses / lengths.clamp(min=1)).exp().tolist()
    return found


def likeness(text: str, other: str) -> float:
    """1 - character error rate, at least 0."""
    return max(0.0, 1 - character_errors(text, other).rate) if text else 0.0


def with_more_drops(augment: AugmentConfig, drops: float) -> AugmentConfig:
    """The same SpecAugment with so many times as many stretches of time and of mel bands, of the same widths."""
    counts = ("least_time_drops", "time_drops", "least_frequency_drops", "frequency_drops")
    return replace(augment, **{name: round(drops * getattr(augment, name)) for name in counts})


def _encode(training: Recognition, chunk: Sequence[Utterance], speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate(chunk, training.cache, training.recogniser.tokenizer, [speed] * len(chunk))
    return training.model.encode(batch.to(training.device))


def _log_probs(training: Recognition, chunk: Sequence[Utterance], speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    states, counts = _encode(training, chunk, speed)
    return training.model.ctc_log_probs(states), counts
