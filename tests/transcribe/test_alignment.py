"""Words and their times from probabilities made by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.config.schema import TokenizerConfig, TokenizerKind
from asr_fed.data.tokenizer import BLANK, EOS, Tokenizer, train_tokenizer
from asr_fed.model.decoding import ctc_greedy
from asr_fed.transcribe.alignment import Word, align_words
from tests.tiny import TEXTS, tiny_tokenizer

CHARACTERS = tiny_tokenizer()
UNIGRAM = train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.unigram, 40))


def says(path: str, tokenizer: Tokenizer, probability: float = 0.9) -> torch.Tensor:
    """Log-probabilities that favour the character of each frame: `-` is blank, `_` the word mark."""
    labels = [BLANK if c == "-" else tokenizer.processor.piece_to_id("▁" if c == "_" else c) for c in path]
    rest = (1 - probability) / (len(tokenizer) - 1)
    probabilities = torch.full((len(path), len(tokenizer)), rest)
    probabilities[range(len(path)), labels] = probability
    return probabilities.log()


def heard(log_probs: torch.Tensor) -> list[int]:
    return ctc_greedy(log_probs[None], torch.tensor([len(log_probs)]))[0]


def test_times_are_right_to_a_frame() -> None:
    log_probs = says("--_bb-a---_dd-u-", CHARACTERS)
    words = align_words(log_probs, heard(log_probs), CHARACTERS, start=100.0, end=100.64, frame_seconds=0.04)
    assert [word.word for word in words] == ["ba", "du"]
    assert [(word.start, word.end) for word in words] == [
        (pytest.approx(100 + 3 * 0.04), pytest.approx(100 + 7 * 0.04)),
        (pytest.approx(100 + 11 * 0.04), pytest.approx(100 + 15 * 0.04)),
    ]
    assert [word.score for word in words] == [pytest.approx(0.9)] * 2


def test_a_word_that_ctc_hears_badly_scores_low() -> None:
    log_probs = torch.cat([says("_ba-", CHARACTERS, 0.99), says("_du-", CHARACTERS, 0.6)])
    sure, unsure = align_words(log_probs, heard(log_probs), CHARACTERS, end=1.0, frame_seconds=0.04)
    assert sure.score == pytest.approx(0.99) and unsure.score == pytest.approx(0.6)


def test_a_hypothesis_of_another_decoder_is_aligned_where_it_fits_best() -> None:
    log_probs = says("_ba------_du----", CHARACTERS)
    other = CHARACTERS.encode("ba ki du")
    words = align_words(log_probs, other, CHARACTERS, end=1.0, frame_seconds=0.04)
    assert [word.word for word in words] == ["ba", "ki", "du"]
    ba, ki, du = words
    assert (ba.start, ba.end) == (pytest.approx(0.04), pytest.approx(0.12))
    assert (du.start, du.end) == (pytest.approx(0.40), pytest.approx(0.48))
    assert ba.end <= ki.start < ki.end <= du.start and ki.score < 0.1 < ba.score


@pytest.mark.parametrize("frames", [0, 1, 5, 10])
def test_one_that_does_not_fit_has_no_times(frames: int) -> None:
    tokens = CHARACTERS.encode("baa ki baa")  # a blank between the two a
    words = align_words(torch.zeros(frames, len(CHARACTERS)), tokens, CHARACTERS, end=0.4, frame_seconds=0.04)
    assert words == [Word(word, None, None, None) for word in ("baa", "ki", "baa")]


def test_it_fits_to_the_last_frame() -> None:
    tokens = CHARACTERS.encode("baa")
    words = align_words(
        torch.zeros(5, len(CHARACTERS)).log_softmax(-1), tokens, CHARACTERS, end=0.19, frame_seconds=0.04
    )
    assert words[0].end == 0.19  # the recording ends before the frame does
    assert words[0].start == pytest.approx(0.04)


def test_silence_has_no_words() -> None:
    assert align_words(says("------", CHARACTERS), [], CHARACTERS, end=1.0, frame_seconds=0.04) == []
    assert (
        align_words(says("--__--", CHARACTERS), CHARACTERS.encode(" "), CHARACTERS, end=1.0, frame_seconds=0.04) == []
    )


@pytest.mark.parametrize("tokenizer", [CHARACTERS, UNIGRAM], ids=["char", "unigram"])
@given(data=st.data())
def test_whatever_ctc_hears(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """The words are those of the text, one behind the other, within the recording, on the path that was heard."""
    path = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=40))
    log_probs = torch.full((len(path), len(tokenizer)), math.log(0.1 / (len(tokenizer) - 1)))
    log_probs[range(len(path)), path] = math.log(0.9)
    tokens = heard(log_probs)
    words = align_words(log_probs, tokens, tokenizer, end=float(len(path)), frame_seconds=1.0)
    assert [word.word for word in words] == tokenizer.decode(tokens).split()
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and all(0 <= edge <= len(path) for edge in edges)
    assert all(word.start < word.end for word in words)
    if all(token == BLANK or token > EOS for token in path):
        assert [word.score for word in words] == [pytest.approx(0.9)] * len(words)
