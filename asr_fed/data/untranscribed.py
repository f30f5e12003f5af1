"""Speech without transcripts: an utterance whose text is empty. Only clients have any."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from asr_fed.config.schema import PartsConfig
from asr_fed.data.identity import identity
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client, Partition
from asr_fed.data.ranking import ranked
from asr_fed.data.text_file import read_lines
from asr_fed.system.errors import UserError

NO_TRANSCRIPT = "no_transcript"  # the reason in Partition.dropped


def transcribed(utterances: Iterable[Utterance]) -> tuple[Utterance, ...]:
    return tuple(utterance for utterance in utterances if utterance.text)


def hide_transcripts(partition: Partition, parts: PartsConfig, seed: int) -> Partition:
    """The partition as if only some clients had transcripts: a share of them (at least one, unless it is 0), or the
    speakers in `parts.transcribed_file`. With the same seed, a larger share has all clients of a smaller one.

    Raises UserError for a file that cannot be read, or lists a speaker who is nowhere in the corpus.
    """
    if parts.transcribed_file is not None:
        speakers = _listed(parts.transcribed_file, {utterance.speaker for utterance in partition.utterances})
        return _without_text(partition, lambda client, utterance: utterance.speaker not in speakers)
    if parts.transcribed == 1:
        return partition
    count = max(1, round(parts.transcribed * len(partition.clients))) if parts.transcribed else 0
    chosen = set(ranked((client.id for client in partition.clients), seed, "transcribed")[:count])
    return _without_text(partition, lambda client, utterance: client.id not in chosen)


def keep_transcribed(partition: Partition) -> Partition:
    """The partition, with the clients' utterances that have no text moved to `dropped`, and clients without any text.

    Raises UserError where no client would be left.
    """
    silent = tuple(u for client in partition.clients for u in client.utterances if not u.text)
    if not silent:
        return partition
    kept = [replace(each, train=transcribed(each.train), dev=transcribed(each.dev)) for each in partition.clients]
    clients = tuple(client for client in kept if client.train)
    if not clients:
        raise UserError(
            "No client has transcripts: raise data.parts.transcribed, or set federation.pseudo_labels.every, so that "
            "clients train on the model's own hypotheses."
        )
    rest = tuple(u for client in kept if not client.train for u in client.dev)
    return replace(partition, clients=clients, dropped={**partition.dropped, NO_TRANSCRIPT: silent + rest})


def _without_text(partition: Partition, hidden: Callable[[Client, Utterance], bool]) -> Partition:
    def hide(client: Client, utterances: tuple[Utterance, ...]) -> tuple[Utterance, ...]:
        return tuple(replace(each, text="") if hidden(client, each) else each for each in utterances)

    clients = (replace(own, train=hide(own, own.train), dev=hide(own, own.dev)) for own in partition.clients)
    return replace(partition, clients=tuple(clients))


def _listed(path: str, known: set[str]) -> set[str]:
    try:
        listed = {identity(line) for line in read_lines(path)}
    except UserError as error:
        raise UserError(f"transcribed_file: {error} It should list one speaker id a line.") from None
    if unknown := sorted(listed - known):
        raise UserError(
            f"transcribed_file={path}: {len(unknown)} of {len(listed)} speakers are not in the manifest, such as "
            f"{', '.join(unknown[:3])}."
        )
    return listed
