"""A corruption for experiments: some clients get the wrong transcripts, to see what a weighting makes of them.

Nothing is changed on disk but the run's own partition, which names these clients.
"""

from dataclasses import replace

from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client, Partition
from asr_fed.data.ranking import ranked
from asr_fed.system.errors import UserError


def with_wrong_transcripts(partition: Partition, share: float, seed: int) -> Partition:
    """`partition` where that share of the clients (at least one) say what others of them have said.

    The seed puts the utterances of these clients, with their own dev parts, in a circle, and each gets the text of the
    next. Warm-up, held-out, dev and test speech stays as it is. A share of 0 changes nothing.

    Raises UserError where that leaves a single utterance.
    """
    if share == 0 or not partition.clients:
        return partition
    count = max(1, round(share * len(partition.clients)))
    chosen = frozenset(ranked((client.id for client in partition.clients), seed, "wrong_transcripts")[:count])
    said = {u.id: u.text for client in partition.clients if client.id in chosen for u in client.utterances}
    circle = ranked(said, seed, "wrong_text")
    if len(circle) < 2:
        raise UserError(
            f"federation.clients.wrong_transcripts={share:g} is for one client of a single utterance, whose text could "
            "be nobody else's: raise it."
        )
    text = {name: said[other] for name, other in zip(circle, circle[1:] + circle[:1], strict=True)}

    def swapped(utterances: tuple[Utterance, ...]) -> tuple[Utterance, ...]:
        return tuple(replace(utterance, text=text[utterance.id]) for utterance in utterances)

    def corrupted(client: Client) -> Client:
        return replace(client, train=swapped(client.train), dev=swapped(client.dev)) if client.id in chosen else client

    return replace(partition, clients=tuple(map(corrupted, partition.clients)), wrong_transcripts=chosen)
