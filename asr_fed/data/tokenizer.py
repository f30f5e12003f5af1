"""SentencePiece on warm-up text only: transcripts of clients do not influence the vocabulary."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece

from asr_fed.config.schema import TokenizerConfig, TokenizerKind
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
        tokens: list[int] = self.processor.encode(text)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens; blank/unk, bos and eos are silent."""
        text: str = self.processor.decode([int(token) for token in tokens if token > EOS])
        return text


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train on the transcripts of the warm-up speakers.

    Every character of the texts is in the vocabulary, for all kinds; `char` has nothing else. A corpus that is too
    small for `vocab_size` pieces gives fewer (except for `bpe`, which has no soft limit).

    Raises UserError where there is no text, or the vocabulary is impossible for it: too small for the characters.
    """
    texts = sorted(set(texts))  # neither order nor repetition of utterances changes the result
    if not any(texts):
        raise UserError("The tokenizer needs warm-up text and there is none: are there warm-up speakers?")
    characters = len(set("".join(texts)) | {" "})
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=config.kind.name,
            vocab_size=config.vocab_size or characters + EOS + 1,
            unk_id=BLANK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            unk_surface="",
            character_coverage=1.0,
            normalization_rule_name="identity",  # data_prep has normalised already
            hard_vocab_limit=False,
            split_by_number=False,
            max_sentence_length=max(4192, *(len(text.encode()) for text in texts)),  # longer ones would be skipped
            num_threads=1,  # a fixed order of summation, hence one hash
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not train a {config.kind.name} vocabulary of {config.vocab_size} pieces on "
            f"{len(texts)} sentences: {error}. Change tokenizer.vocab_size or tokenizer.kind."
        ) from error
    tokenizer = Tokenizer(model.getvalue())
    lacking = "".join(sorted(unknown_characters(tokenizer, texts)))
    if lacking and config.vocab_size is not None and config.kind is TokenizerKind.char:
        # SentencePiece shortens the alphabet without a warning
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size} is too small for kind=char: the warm-up text has {characters} "
            f"different characters and needs {len(tokenizer) + len(lacking)} pieces; {lacking!r} would be left out. "
            "Use tokenizer.vocab_size=null, which is as many as it needs."
        )
    if lacking:
        raise UserError(f"The warm-up text has {lacking!r}, which SentencePiece cannot hold: take it out of the text.")
    return tokenizer


def unknown_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Characters that are missing from the vocabulary, with their number: they can be neither learned nor written."""
    counts = Counter(character for text in texts for character in text)
    return Counter({each: count for each, count in counts.items() if BLANK in tokenizer.encode(each)})


def describe_unknown(tokenizer: Tokenizer, texts: Iterable[str], most: int = 8) -> str:
    """A sentence on the characters of `texts` that a recogniser with this vocabulary cannot write; empty if none."""
    unknown = unknown_characters(tokenizer, texts)
    if not unknown:
        return ""
    told = ", ".join(f"{character} ({count} times)" for character, count in unknown.most_common(most))
    told += f" and {len(unknown) - most} more" if len(unknown) > most else ""
    cases = {"lower case": str.lower, "upper case": str.upper}
    advice = "".join(
        f" It writes {name}: convert the text."
        for name, change in cases.items()
        if not unknown_characters(tokenizer, map(change, unknown))
    )
    return f"The recogniser cannot write these characters, of which its vocabulary knows nothing: {told}.{advice}"


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(tokenizer.proto)


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises UserError where the file is missing."""
    if not path.is_file():
        raise UserError(f"There is no tokenizer at {path}.")
    return Tokenizer(path.read_bytes())
