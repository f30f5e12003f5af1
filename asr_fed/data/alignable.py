"""Transcripts that CTC cannot align: they need more encoder states than their recording has.

The loss of such a pair is always infinite (Graves et al., ICML 2006, section 4.1). Usually the recording is cut off, or
the text belongs to another recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from asr_fed.data.features import FeatureCache
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition
from asr_fed.data.tokenizer import Tokenizer
from asr_fed.system.errors import UserError

# Reasons in Partition.dropped.
TOO_MANY_TOKENS = "too_many_tokens"
NOTHING_TO_TRAIN_ON = "nothing_to_train_on"  # the dev part of a client that has lost all of its training speech
MOST = 0.2  # share of the training speech: if more does not fit, the model is the problem
NAMED = 8

# Whether CTC can align an utterance at a playback speed.
Alignable = Callable[[Utterance, float], bool]


def states_needed(tokens: Sequence[int]) -> int:
    """One per token, and one for the blank between two equal tokens."""
    return len(tokens) + sum(left == right for left, right in pairwise(tokens))


def alignable(cache: FeatureCache, tokenizer: Tokenizer, states: Callable[[int], int]) -> Alignable:
    """Whether CTC can align an utterance, by its cached features, where the encoder makes `states` of frames."""

    def fits(utterance: Utterance, speed: float) -> bool:
        return states_needed(tokenizer.encode(utterance.text)) <= states(cache.frames(utterance.id, speed))

    return fits


def keep_alignable(partition: Partition, fits: Alignable, most: float = MOST) -> Partition:
    """The partition, with utterances that CTC cannot align moved to `dropped`. Dev and test stay complete.

    A client that has nothing left to train on is dropped.

    Raises UserError if that is more than the share `most` of the training speech, all of warm-up, or all clients.
    """
    speech = _to_train_on(partition)
    # In the order of the cache, which reads where a shard's utterances lie once then.
    by_id = sorted(speech, key=lambda utterance: utterance.id)
    impossible = {utterance.id for utterance in by_id if not fits(utterance, 1.0)}
    if not impossible:
        return partition
    dropped = tuple(utterance for utterance in speech if utterance.id in impossible)

    def keep(utterances: tuple[Utterance, ...]) -> tuple[Utterance, ...]:
        return tuple(utterance for utterance in utterances if utterance.id not in impossible)

    clients = [replace(client, train=keep(client.train), dev=keep(client.dev)) for client in partition.clients]
    gone = [client for client in clients if not client.train]
    nothing = (partition.warm_up and not keep(partition.warm_up)) or (clients and len(gone) == len(clients))
    if nothing or len(dropped) > most * len(speech):
        raise UserError(
            f"{_told(dropped, len(speech))}: the model has too few states for this text. Give it more (a smaller "
            "features.hop_ms or model.time_pooling, or model.pool_2d=false), or longer tokens "
            "(tokenizer.kind=unigram with a larger tokenizer.vocab_size)."
        )
    why = {TOO_MANY_TOKENS: dropped}
    if left_over := tuple(utterance for client in gone for utterance in client.dev):
        why[NOTHING_TO_TRAIN_ON] = left_over
    return replace(
        partition,
        warm_up=keep(partition.warm_up),
        held_out=keep(partition.held_out),
        clients=tuple(client for client in clients if client.train),
        dropped={**partition.dropped, **why},
    )


def speech_to_examine(partition: Partition) -> list[Utterance]:
    """All whose features are needed: what is used, and what `keep_alignable` could only tell by them."""
    by_features = (partition.dropped.get(reason, ()) for reason in (TOO_MANY_TOKENS, NOTHING_TO_TRAIN_ON))
    return [*partition.kept, *chain.from_iterable(by_features)]


def describe_impossible(partition: Partition) -> str:
    """A sentence about what `keep_alignable` has dropped; empty if nothing."""
    dropped = partition.dropped.get(TOO_MANY_TOKENS, ())
    return f"{_told(dropped, len(dropped) + len(_to_train_on(partition)))}. They are left out." if dropped else ""


def _to_train_on(partition: Partition) -> list[Utterance]:
    owned = (utterance for client in partition.clients for utterance in client.utterances)
    return [*partition.warm_up, *partition.held_out, *owned]


def _told(dropped: Sequence[Utterance], total: int) -> str:
    names = ", ".join(utterance.id for utterance in dropped[:NAMED]) + (", ..." if len(dropped) > NAMED else "")
    return (
        f"{len(dropped)} of {total} transcripts to train on ({len(dropped) / total:.1%}) have more tokens than the "
        f"encoder has states for their recordings ({names})"
    )
