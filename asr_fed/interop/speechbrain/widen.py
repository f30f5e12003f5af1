"""Two tokens more for recognisers whose token 0 is blank, unknown, beginning and end alike."""

from pathlib import Path

import torch

from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.system.errors import UserError

NEVER = -30.0  # a bias: e^-30 is less than float32 sees beside a probability of 1
# A serialised SentencePiece model is a sequence of fields, pieces first, where a later value of a setting takes the
# place of an earlier one. So these can be put in and added at the end. (The wheel's own sentencepiece_model_pb2 needs
# a newer protobuf than Flower permits.)
CONTROL_PIECES = b"\x0a\x07\x0a\x03<s>\x18\x03\x0a\x08\x0a\x04</s>\x18\x03"  # pieces {piece, type: CONTROL}
TRAINER_SPEC = b"\x12\x06\xc8\x02\x01\xd0\x02\x02"  # trainer_spec {bos_id: 1, eos_id: 2}


def widen_tokenizer(proto: bytes, path: Path) -> bytes:
    """The SentencePiece model with pieces <s> and </s> at 1 and 2; all others but the first move up by two.

    Raises UserError where it has pieces for beginning and end already, in places that recognisers do not use.
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
    """Rows 1 and 2, beginning and end of sentence, for every tensor with a row a token.

    What token 0 was to the attention decoder, as input the beginning and as output the end, 1 and 2 are then. Tokens
    that a head must not speak weigh nothing but a bias that leaves them no probability: they cost no hypothesis
    anything, and can still be trained.
    """
    wide = dict(weights)
    for name, silent in (
        ("1.Embedding.weight", []),
        *((f"3.w.{kind}", [BOS, EOS]) for kind in ("weight", "bias")),  # CTC speaks blanks
        *((f"4.w.{kind}", [BLANK, BOS]) for kind in ("weight", "bias")),  # attention speaks ends
    ):
        if name in weights:
            wide[name] = torch.cat([weights[name][:1], weights[name][:1], weights[name]])
            wide[name][silent] = NEVER if name.endswith("bias") else 0.0
    return wide
