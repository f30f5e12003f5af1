"""The time of each word of a hypothesis, from the CTC head."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torchaudio.functional import forced_align, merge_tokens

from asr_fed.data.tokenizer import BLANK, EOS, Tokenizer

WORD_MARK = "▁"  # SentencePiece's, before the first letter of a word


@dataclass(frozen=True)
class Word:
    """Start and end in seconds from the beginning of the recording; score: mean probability of its aligned tokens.

    All three are None if the hypothesis does not fit into CTC's frames.
    """

    word: str
    start: float | None
    end: float | None
    score: float | None


def align_words(
    log_probs: torch.Tensor,
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    *,
    start: float = 0.0,
    end: float,
    frame_seconds: float,
) -> list[Word]:
    """The words of a hypothesis, with times from CTC's best path for its tokens.

    Args:
        log_probs: of CTC, float32 [frames, vocabulary] on the CPU, for the seconds from `start` to `end`.
    """
    tokens = [token for token in tokens if token > EOS]
    words = split_into_words(tokens, tokenizer)
    repetitions = sum(one == following for one, following in pairwise(tokens))
    if len(tokens) + repetitions > len(log_probs):  # CTC needs a blank between two equal tokens
        return [Word(word, None, None, None) for word, _ in words]
    if not words:
        return []
    path, scores = forced_align(log_probs[None], torch.tensor([tokens]), blank=BLANK)
    spans = merge_tokens(path[0], scores[0].exp(), blank=BLANK)
    return [
        Word(
            word,
            start=min(start + spans[places[0]].start * frame_seconds, end),
            end=min(start + spans[places[-1]].end * frame_seconds, end),
            score=sum(spans[place].score for place in places) / len(places),
        )
        for word, places in words
    ]


def split_into_words(tokens: Sequence[int], tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Each word with the positions of its tokens in `tokens`; a single word mark belongs to no word."""
    words: list[list[int]] = [[]]
    for place, token in enumerate(tokens):
        piece = tokenizer.processor.id_to_piece(token)
        if piece.startswith(WORD_MARK):
            words.append([])
        if piece.strip(WORD_MARK):
            words[-1].append(place)
    return [(tokenizer.decode([tokens[place] for place in places]), places) for places in words if places]
