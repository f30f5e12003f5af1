"""SentencePiece on warm-up text only: no transcript of a client takes part in making the vocabulary."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece

from asr_fed.config.schema import TokenizerConfig
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing

# Index 0 is the CTC blank and also `unk`: a character that warm-up text lacks costs CTC one blank frame and is
# never written. Beginning and end of sentence must differ from it: a joint
# CTC/attention search cannot tell an ending from a blank otherwise.
BLANK, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class Tokenizer:
    """A trained SentencePiece model; equal models have equal `sha256` on every client."""

    proto: bytes
    processor: sentencepiece.SentencePieceProcessor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        processor = sentencepiece.SentencePieceProcessor()
        processor.load_from_serialized_proto(self.proto)
        object.__setattr__(self, "processor", processor)

    def __len__(self) -> int:
        return self.processor.get_piece_size()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.proto).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens; blank/unk, bos and eos are silent."""
        return self.processor.decode([int(token) for token in tokens if token > EOS])


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train on the transcripts of the warm-up speakers.

    A corpus too small for `vocab_size` pieces yields fewer (not for `bpe`, which has no soft limit).

    Raises UserError where there is no text, or the vocabulary is impossible for it.
    """
    texts = sorted(set(texts))  # neither order nor repetition of utterances changes the result
    if not any(texts):
        raise UserError("The tokenizer needs warm-up text and there is none: are there warm-up speakers?")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=config.kind.name,
            vocab_size=config.vocab_size,
            unk_id=BLANK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            unk_surface="",
            character_coverage=1.0,
            normalization_rule_name="identity",  # data_prep has normalised already
            hard_vocab_limit=False,
            split_by_number=False,
            num_threads=1,  # a fixed order of summation, hence one hash
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not train a {config.kind.name} vocabulary of {config.vocab_size} pieces on "
            f"{len(texts)} sentences: {error}. Change tokenizer.vocab_size or tokenizer.kind."
        ) from error
    return Tokenizer(model.getvalue())


def unknown_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Characters that the vocabulary lacks, with their number: they can be neither trained on nor written."""
    known = set("".join(tokenizer.processor.id_to_piece(token) for token in range(len(tokenizer)))) | {" "}
    return Counter(character for text in texts for character in text if character not in known)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(tokenizer.proto)


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises UserError where the file is missing."""
    if not path.is_file():
        raise UserError(f"There is no tokenizer at {path}.")
    return Tokenizer(path.read_bytes())
