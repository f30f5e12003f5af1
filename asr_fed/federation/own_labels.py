"""Clients without transcripts: they train on what the model that they are sent hears in their speech.

The hypotheses are made where the speech is and stay there, in the client's store. They are a function of the weights of
the round that makes them, so that any engine and any number of workers make the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from asr_fed.config.schema import PseudoLabelsConfig
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Client
from asr_fed.data.untranscribed import transcribed
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.model.state import load_state
from asr_fed.tasks.hypotheses import hypotheses, is_good, with_more_drops
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.local import ClientResult
from asr_fed.training.task import Task
from asr_fed.wire.messages import Order

LABELS = "pseudo_labels"  # as the client's owner keeps them


@dataclass(frozen=True)
class OwnLabels:
    """A client as it is trained in a round.

    client: with good hypotheses in place of transcripts that it lacks, without what has neither.
    training: the task, with stronger augmentation where there are hypotheses.
    measured_on: what its errors can be counted on; None as for any client.
    kept: what stays with the client's owner.
    untranscribed, pseudo_labelled: how many utterances have no transcript, and how many of these are trained on.
    """

    client: Client
    training: Task[Any]
    measured_on: tuple[Utterance, ...] | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    untranscribed: int = 0
    pseudo_labelled: int = 0

    @property
    def enough(self) -> bool:
        """Whether anything is to be trained on."""
        return bool(self.client.train)


def own_labels(
    training: Task[Any], client: Client, order: Order, kept: Mapping[str, Any], settings: PseudoLabelsConfig
) -> OwnLabels:
    """`kept` is what the client's owner keeps since an earlier round; hypotheses in it are used until they are due."""
    silent = [utterance for utterance in client.train if not utterance.text]
    if settings.every is None or not isinstance(training, Recognition):
        return OwnLabels(client, training)
    measured_on = transcribed(client.dev) or transcribed(client.train)
    if not silent:
        return OwnLabels(client, training, None if all(each.text for each in client.dev) else measured_on)
    due = (order.server_round - 1) // settings.every  # all clients make new ones in the same rounds
    labels = kept.get(LABELS)
    if labels is None or labels["due"] < due:
        load_state(training.model, order.weights)
        found = hypotheses(training, silent, settings)
        good = {each.id: found[each.id].text for each in silent if is_good(found[each.id], each.duration, settings)}
        labels = {"due": due, "texts": good}
    texts = labels["texts"]
    labelled = (replace(each, text=texts.get(each.id, "")) if not each.text else each for each in client.train)
    train = transcribed(labelled)
    if len(train) < settings.min_utterances:
        train = ()
    made = {each.id for each in silent}
    return OwnLabels(
        replace(client, train=train),
        replace(training, augment=with_more_drops(training.augment, settings.drops)),
        measured_on,
        {LABELS: labels},
        len(silent),
        sum(each.id in made for each in train),
    )


def nothing_learned(length: int, loss: float) -> ClientResult:
    """Of a client that had nothing to train on: a delta of so many zeros, and the loss that clients have anyway."""
    return ClientResult(np.zeros(length, np.float32), 0, loss, ErrorCounts(), 0.0, 0.0, 0)
