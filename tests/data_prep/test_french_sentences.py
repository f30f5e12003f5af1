"""The grammar of the corpus with Common Voice's shape: French as transcripts spell it, and a long tail of words."""

import re
from collections import Counter

import numpy as np
import pytest

from asr_fed.data_prep.french_sentences import number, say
from asr_fed.data_prep.text import normalise


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = np.random.default_rng(1)
    return [say(rng) for _ in range(5000)]


def test_transcripts_of_french_refuse_none(sentences: list[str]) -> None:
    assert all(normalise(sentence, "fr") for sentence in sentences)


def test_a_vowel_is_dropped_before_a_vowel(sentences: list[str]) -> None:
    # Elision (la école -> l'école) of what the grammar itself puts together.
    assert not [s for s in sentences if re.search(r"\b(je|ne|de|que|le|la|ce|ma|ta|sa) [aeiouyhéèêàâîô]", s)]


def test_the_consonant_stays_soft(sentences: list[str]) -> None:
    assert not [s for s in sentences if re.search(r"\b(mang|dérang|chang|plac|dénonc)(a|ai|ait|ons|âmes)\b", s)]
    assert any(re.search(r"mange[ao]|plaç[ao]", s) for s in sentences)


def test_few_words_make_up_most_speech_and_the_test_has_unseen_ones(sentences: list[str]) -> None:
    train, test = sentences[:4000], sentences[4000:]
    counts = Counter(word for sentence in train for word in sentence.split())
    words = [word for sentence in test for word in sentence.split()]
    unseen = sum(word not in counts for word in words) / len(words)
    assert len(counts) > 2000
    assert sum(count for _, count in counts.most_common(200)) > 0.6 * counts.total()
    assert 0.005 < unseen < 0.05
    assert len(set(sentences)) > 0.95 * len(sentences)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zéro"),
        (17, "dix-sept"),
        (21, "vingt et un"),
        (70, "soixante-dix"),
        (71, "soixante et onze"),
        (80, "quatre-vingt"),
        (81, "quatre-vingt-un"),
        (99, "quatre-vingt-dix-neuf"),
        (100, "cent"),
        (342, "trois cent quarante-deux"),
        (1000, "mille"),
        (1994, "mille neuf cent quatre-vingt-quatorze"),
        (20_003, "vingt mille trois"),
    ],
)
def test_numbers_in_words(value: int, words: str) -> None:
    assert number(value) == words
