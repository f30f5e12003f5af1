"""Add two tokens to recognisers whose token 0 is blank, unknown, beginning and end."""

from pathlib import Path

import torch

from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.system.errors import UserError

NEVER = -30.0  # a bias: e^-30 vanishes beside a probability of 1 in float32
# A serialised SentencePiece model is a sequence of fields, pieces first; a later value of a setting replaces an earlier
# one. So pieces can be inserted and settings appended. (The wheel's sentencepiece_model_pb2 needs a newer protobuf than
# Flower allows.)
CONTROL_PIECES = b"\x0a\x07\x0a\x03<s>\x18\x03\x0a\x08\x0a\x04</s>\x18\x03"  # pieces {piece, type: CONTROL}
TRAINER_SPEC = b"\x12\x06\xc8\x02\x01\xd0\x02\x02"  # trainer_spec {bos_id: 1, eos_id: 2}


def widen_tokenizer(proto: bytes, path: Path) -> bytes:
    """The SentencePiece model with pieces <s> and </s> at 1 and 2; all later pieces move up by two.

    Raises UserError if it already has pieces for beginning and end, in other places.
    """
    processor = Tokenizer(proto).processor
    special = (processor.unk_id(), processor.bos_id(), processor.eos_id())
    if special != (BLANK, -1, -1):
        raise UserError(
            f"{path}: unknown, beginning and end of sentence are pieces {special}. Beside a recogniser whose blank is "
            f"also its beginning and end, asr_fed expects {(BLANK, -1, -1)}."
        )
    first = 2 + proto[1]  # bytes of the first field: its number and type, its length, the piece
    return proto[:first] + CONTROL_PIECES + proto[first:] + TRAINER_SPEC


def widen_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add rows 1 and 2 (beginning and end of sentence) to every tensor with one row per token.

    For the attention decoder token 0 was the beginning as input and the end as output; these become 1 and 2. Tokens
    that a head must not output get weights of 0 and a bias that makes their probability 0: they change no hypothesis,
    and can still be trained.
    """
    wide = dict(weights)
    for name, silent in (
        ("1.Embedding.weight", []),
        *((f"3.w.{kind}", [BOS, EOS]) for kind in ("weight", "bias")),  # CTC outputs blanks
        *((f"4.w.{kind}", [BLANK, BOS]) for kind in ("weight", "bias")),  # attention outputs ends
    ):
        if name in weights:
            wide[name] = torch.cat([weights[name][:1], weights[name][:1], weights[name]])
            wide[name][silent] = NEVER if name.endswith("bias") else 0.0
    return wide
