"""The messages between server and node, as plain objects. `joining.py` and `rounds.py` turn them into Flower's records.

Joining. Down: the shared config (without any path), the tokenizer, and what is frozen in the model where it was drawn
at random. Up: which clients the node hosts, and how much speech each has.
A round. Down: an order: the global weights, the algorithm's vectors, round, learning rate, client ids. Up: one update
(sums and the numbers that were summed with them), the clients that failed, by name, and how long it took.
Personalisation, where the config has it. Down: an order as in a round. Up: for each client its word errors before and
after, on speech that it held back.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.update import Update

TOTALS = (  # what is summed over clients besides vectors and weights
    *("clients", "weight_squared", "loss", "measured", "word_errors", "words", "squared_errors", "examples"),
    *("skipped_steps", "audio_milliseconds", "train_milliseconds", "untranscribed", "pseudo_labelled"),
)


class Refused(ValueError):
    """An invalid message; the text says what is wrong with it."""


@dataclass(frozen=True)
class SharedConfig:
    """What server and node have to agree on before training: YAML of the config, and the tokenizer.

    base: hash of the model's frozen part (`asr_fed.model.state.frozen_sha256`), which the node needs to have already
        unless `drawn` has it; empty if nothing is frozen.
    drawn: that part itself (`asr_fed.model.state.pack_frozen`) where the server has drawn it at random, such as
        BEST-RQ's codebook: another processor would draw it with other last bits. Empty otherwise. `base` is its hash.
    """

    config: str
    tokenizer: bytes
    base: str = ""
    drawn: bytes = b""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"\0".join((self.config.encode(), self.base.encode(), self.tokenizer))).hexdigest()


@dataclass(frozen=True)
class ClientSize:
    """How much speech a client has: utterances to train on, seconds to train on and to measure its WER on."""

    examples: int
    train_seconds: float
    dev_seconds: float


@dataclass(frozen=True)
class Report:
    """A node's answer on joining: the clients it hosts, and whether they are its own or simulated ones.

    A simulated client may be hosted by several nodes, and is trained by any of them. `setup` is the hash of the
    shared config that the node has.
    """

    name: str
    own: bool
    setup: str
    clients: dict[str, ClientSize]


@dataclass(frozen=True)
class Terms:
    """What a client is asked for that differs from a whole round.

    steps: at most so many optimizer steps; None for no limit.
    weight: factor of its weight a_k.
    """

    steps: int | None = None
    weight: float = 1.0


WHOLE = Terms()


@dataclass(frozen=True)
class Order:
    """The order to a node: train these clients from these weights, under this setup.

    halves: how many of the first weights are a bfloat16 each, and travel in 16 bits.
    run: hexadecimal digits that name the run. What clients keep between rounds is kept for each run.
    others: the algorithm's further vectors, float32, by name.
    reference_loss: roughly the clients' present loss (see `asr_fed.aggregation.weighting`).
    ticket: identifies the order; the answer repeats it.
    setup: hash of the shared config.
    terms: by client, of those who are asked for other than a whole round.
    prior: what the clients of the last round say of a client's WER (see `asr_fed.aggregation.prior`).
    """

    server_round: int
    lr: float
    clients: tuple[str, ...]
    weights: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    reference_loss: float = 0.0
    ticket: str = ""
    setup: str = ""
    terms: Mapping[str, Terms] = field(default_factory=dict)
    prior: Prior = field(default_factory=Prior)
    halves: int = 0
    run: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds that a node spent on an order: `busy` training, and `start` on all before and after that."""

    busy: float = 0.0
    start: float = 0.0


class Answer(Protocol):
    """The part that every answer to an order has: why clients are missing, and how long the work took."""

    @property
    def failures(self) -> dict[str, str]: ...

    @property
    def timing(self) -> Timing: ...


@dataclass(frozen=True)
class Reply:
    """A node's answer. `update` is None if no client yielded one; `failures` says why, by client."""

    update: Update | None
    failures: dict[str, str]
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class Gained:
    """Word errors on `words` words that a client held back, before and after it fine-tuned a copy of the recogniser."""

    words: int
    before: int
    after: int


@dataclass(frozen=True)
class Gains:
    """A node's answer to an order to personalise."""

    gained: dict[str, Gained]
    failures: dict[str, str]
    timing: Timing = field(default_factory=Timing)
