"""A client's own copy of the recogniser: fine-tuned on its speech, evaluated on speech that it held back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from asr_fed.config.schema import Decoder, PersonalisationConfig, Tune
from asr_fed.data.batching import training_batches
from asr_fed.data.partition import Client
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.model.recogniser import AcousticModel
from asr_fed.model.state import load_state, trainable
from asr_fed.model.tuning import keep_part
from asr_fed.system.randomness import seed_everything
from asr_fed.tasks.recognition import Recognition
from asr_fed.training.epoch import train_epoch
from asr_fed.training.optimizer import build_optimizer

# For Adam; docs/personalisation.md says how they were found.
RATES = {Tune.full: 0.0002, Tune.head: 0.001, Tune.norm_bias: 0.005, Tune.adapters: 0.001, Tune.lora: 0.001}


@dataclass(frozen=True)
class Gain:
    """The recognition of a client's held-back speech before and after fine-tuning."""

    before: Evaluation
    after: Evaluation


def personalise_client(
    context: Recognition,
    client: Client,
    weights: np.ndarray,
    *,
    config: PersonalisationConfig,
    decoder: Decoder,
    seed: int,
) -> Gain:
    """Fine-tune from `weights` (float32 [state]) on `client.train`, evaluate on `client.dev`.

    Afterwards the model of `context` has the client's own weights. The result depends on the arguments only.

    Raises ValueError if a client has nothing to train or to evaluate on.
    """
    if not client.train or not client.dev:
        raise ValueError(f"{client.id} has {len(client.train)} utterances to train on and {len(client.dev)} held back")
    model = context.model
    load_state(model, weights)

    def evaluate_copy() -> Evaluation:
        return context.decode(client.dev, decoder)

    before = evaluate_copy()
    rng = seed_everything(seed, "personalise", client.id)
    with changing_only(model, config):
        optimizer = build_optimizer(config.optimizer, model, learning_rate(config))
        for _ in range(config.epochs):
            batches = training_batches(client.train, config.batch, rng)
            train_epoch(context, batches, optimizer, rng, clip=config.clip)
    return Gain(before, evaluate_copy())


def learning_rate(config: PersonalisationConfig) -> float:
    return RATES[config.part] if config.lr is None else config.lr


@contextmanager
def changing_only(model: AcousticModel, config: PersonalisationConfig) -> Iterator[None]:
    """Inside this context only `config.part` has gradients, and only parameters of it that the rounds trained too.

    With `full` and `norm_bias` BatchNorm's running statistics follow the client, too; with the other parts those of the
    encoder stay. Afterwards LoRA is merged into the weights. Raises UserError where the model has nothing of the part.
    """
    before, added = trainable(model), []
    try:
        added = keep_part(model, config.part, config.lora_rank, config.lora_alpha, "personalisation.part")
        yield
    finally:
        for each in added:
            each.merge()
        for parameter in before:
            parameter.requires_grad_(True)
        model.zero_grad(set_to_none=True)
