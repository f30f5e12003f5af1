"""Who has which speech: warm-up, clients, server held-out, dev and test; no speaker is in two of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum

from asr_fed.data.identity import identity
from asr_fed.data.manifest import Utterance, hours


@dataclass(frozen=True)
class Client:
    """One data owner: a speaker, or an institution with many speakers. `train` is never empty, `dev` may be."""

    id: str
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", identity(self.id))

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        return self.train + self.dev

    @property
    def speakers(self) -> tuple[str, ...]:
        """Sorted ids of its speakers."""
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    @property
    def seconds(self) -> float:
        """Audio of train and dev together."""
        return fsum(utterance.duration for utterance in self.utterances)


@dataclass(frozen=True)
class Partition:
    """The whole corpus, each utterance in one place; tuples are sorted by speaker and id, clients by id.

    `dropped` holds what no part uses, by reason: `other_split` (other utterances of a speaker of test or dev),
    `too_long` (above `max_train_seconds`), `too_small` (the client had less than `min_seconds`), `too_many_tokens` and
    `nothing_to_train_on` (`asr_fed.data.alignable`), `no_transcript` (`asr_fed.data.untranscribed`).

    `wrong_transcripts`: clients that were corrupted for an experiment (`asr_fed.data.wrong_transcripts`).
    """

    warm_up: tuple[Utterance, ...]
    held_out: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    clients: tuple[Client, ...]
    dropped: Mapping[str, tuple[Utterance, ...]] = field(default_factory=dict)
    wrong_transcripts: frozenset[str] = frozenset()

    @property
    def server_parts(self) -> dict[str, tuple[Utterance, ...]]:
        """The parts that belong to no client, by name."""
        return {"warm_up": self.warm_up, "held_out": self.held_out, "dev": self.dev, "test": self.test}

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """All utterances, also the dropped ones."""
        return (*self.kept, *(utterance for part in self.dropped.values() for utterance in part))

    @property
    def kept(self) -> tuple[Utterance, ...]:
        """What belongs to a part or a client."""
        owned = (utterance for client in self.clients for utterance in client.utterances)
        return (*(utterance for part in self.server_parts.values() for utterance in part), *owned)

    @property
    def trained_on(self) -> tuple[Utterance, ...]:
        """What models may be trained on: not dev, test, nor the clients' own dev."""
        return (*self.warm_up, *self.held_out, *(utterance for client in self.clients for utterance in client.train))


def describe(partition: Partition) -> str:
    """One line: hours and speakers of each part."""
    parts = {**partition.server_parts, "clients": [u for client in partition.clients for u in client.utterances]}
    text = ", ".join(
        f"{name.replace('_', '-')} {hours(part):.2f} h ({len({u.speaker for u in part})} speakers)"
        for name, part in parts.items()
    )
    wrong = partition.wrong_transcripts
    corrupted = f", {len(wrong)} of them with wrong transcripts on purpose" if wrong else ""
    silent = sum(not any(utterance.text for utterance in client.utterances) for client in partition.clients)
    untranscribed = f", {silent} of them without transcripts" if silent else ""
    return f"{text}; {len(partition.clients)} clients{corrupted}{untranscribed}"
