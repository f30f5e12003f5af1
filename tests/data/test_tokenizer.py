"""The vocabulary: a function of the warm-up text alone, the same bytes everywhere."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_fed.config.schema import TokenizerConfig, TokenizerKind
from asr_fed.data.tokenizer import (
    BLANK,
    BOS,
    EOS,
    Tokenizer,
    describe_unknown,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
    unknown_characters,
)
from asr_fed.runs.experiment import Experiment
from asr_fed.system.errors import UserError

TEXTS = [
    "le chat de l'été mange une pomme",
    "la pomme du chat est verte",
    "où est l'âne",
    "une âme verte mange la tarte",
    "demain il fera beau sur la côte",
]
CHARACTERS = sorted(set("".join(TEXTS)) - {" "})
CHAR = TokenizerConfig(TokenizerKind.char, 60)


@pytest.mark.parametrize("kind", list(TokenizerKind))
def test_order_and_repetition_of_the_texts_do_not_change_the_hash(kind: TokenizerKind) -> None:
    config = TokenizerConfig(kind, 40 if kind is not TokenizerKind.bpe else 30)
    first = train_tokenizer(TEXTS, config)
    again = train_tokenizer([*reversed(TEXTS), *TEXTS], config)
    assert first.proto == again.proto
    assert first.sha256 == again.sha256
    assert len(first.sha256) == 64


def test_another_text_or_kind_is_another_hash() -> None:
    hashes = {
        train_tokenizer(TEXTS, CHAR).sha256,
        train_tokenizer(TEXTS[1:], CHAR).sha256,
        train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.unigram, 40)).sha256,
    }
    assert len(hashes) == 3


CHAR_TOKENIZER = train_tokenizer(TEXTS, CHAR)


@settings(max_examples=50)
@given(st.lists(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=9), min_size=1, max_size=6))
def test_text_of_known_characters_comes_back(words: list[str]) -> None:
    text = " ".join(words)
    assert CHAR_TOKENIZER.decode(CHAR_TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("kind", list(TokenizerKind))
def test_training_text_comes_back_and_uses_no_special_token(kind: TokenizerKind) -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerConfig(kind, 40 if kind is not TokenizerKind.bpe else 30))
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert min(tokens) > EOS and max(tokens) < len(tokenizer)


def test_an_unknown_character_is_the_blank_and_special_tokens_are_silent() -> None:
    assert BLANK in CHAR_TOKENIZER.encode("chat ω")
    known = CHAR_TOKENIZER.encode("chat")
    assert CHAR_TOKENIZER.decode([BOS, BLANK, *known, EOS]) == "chat"
    assert CHAR_TOKENIZER.decode([]) == ""


def test_a_vocabulary_too_large_for_the_text_is_cut_not_refused() -> None:
    assert len(CHAR_TOKENIZER) == len(CHARACTERS) + 4  # three special tokens and the word mark
    assert len(train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.unigram, 500))) < 500


def test_characters_are_all_kept_or_the_vocabulary_is_refused_saying_what_it_needs() -> None:
    needed = len(CHARACTERS) + 4
    whole = train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.char, None))
    assert len(whole) == needed and not unknown_characters(whole, TEXTS)
    pieces = [whole.processor.id_to_piece(token) for token in range(needed)]
    exact = train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.char, needed))
    assert pieces == [exact.processor.id_to_piece(token) for token in range(needed)]
    for size in (8, needed - 1):
        with pytest.raises(UserError, match=rf"vocab_size={size} is too small.*needs {needed} pieces"):
            train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.char, size))


@pytest.mark.parametrize("kind", list(TokenizerKind))
def test_a_character_that_no_vocabulary_can_hold_is_named(kind: TokenizerKind) -> None:
    with pytest.raises(UserError, match=r"'\\x00', which SentencePiece cannot hold"):
        train_tokenizer([*TEXTS, "la\0tarte"], TokenizerConfig(kind, None if kind is TokenizerKind.char else 40))


def test_a_very_long_text_takes_part() -> None:
    long = train_tokenizer(["a" * 5000 + "ž", "bc"], TokenizerConfig(TokenizerKind.char, None))
    assert len(long) == 4 + len("ažbc")


def test_what_a_recogniser_cannot_write_is_told_with_the_way_out() -> None:
    assert describe_unknown(CHAR_TOKENIZER, TEXTS) == ""
    assert unknown_characters(CHAR_TOKENIZER, ["<unk> s'il"]) == {"<": 1, "k": 1, ">": 1}  # no piece of its own
    told = describe_unknown(CHAR_TOKENIZER, ["LA POMME", "LE CHAT"])
    assert "L (2 times)" in told and "It writes lower case" in told
    assert "case" not in describe_unknown(CHAR_TOKENIZER, ["la pomme à 3 €"])


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="warm-up"):
        train_tokenizer(texts, CHAR)


def test_an_impossible_vocabulary_is_refused_naming_the_key() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size"):
        train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.bpe, 9))


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    save_tokenizer(CHAR_TOKENIZER, tmp_path / "t.model")
    loaded = load_tokenizer(tmp_path / "t.model")
    assert loaded == CHAR_TOKENIZER
    assert loaded.sha256 == CHAR_TOKENIZER.sha256
    with pytest.raises(UserError, match=r"none\.model"):
        load_tokenizer(tmp_path / "none.model")


def test_an_experiment_trains_it_on_the_warm_up_speakers_only(experiment: Experiment) -> None:
    warm_up = [utterance.text for utterance in experiment.partition.warm_up]
    expected: Tokenizer = train_tokenizer(warm_up, experiment.config.tokenizer)
    assert experiment.tokenizer.sha256 == expected.sha256
    everyone = warm_up + [u.text for client in experiment.partition.clients for u in client.train]
    assert experiment.tokenizer.sha256 != train_tokenizer(everyone, experiment.config.tokenizer).sha256
