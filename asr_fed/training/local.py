"""Local training of one client: the function that every engine calls."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from asr_fed.config.schema import EvaluationConfig, FederationConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.partition import Client
from asr_fed.evaluation.evaluate import evaluate
from asr_fed.evaluation.wer import ErrorCounts
from asr_fed.model.state import load_state, read_delta
from asr_fed.system.randomness import seed_everything
from asr_fed.training.epoch import EpochResult, TrainingContext, train_epoch
from asr_fed.training.optimizer import build_optimizer


@dataclass(frozen=True)
class ClientResult:
    """What a client's training yields; only `delta` and numbers derived from the rest leave the client.

    delta: float32 [state], local state minus global state.
    loss: mean training loss of the last local epoch.
    words: word errors after training, on the client's own dev part (its training part where it has no dev).
    """

    delta: np.ndarray
    num_examples: int
    loss: float
    words: ErrorCounts
    audio_seconds: float
    train_seconds: float
    skipped_steps: int


def train_client(
    context: TrainingContext,
    client: Client,
    weights: np.ndarray,
    *,
    lr: float,
    config: FederationConfig,
    evaluation: EvaluationConfig,
    seed: int,
    server_round: int,
) -> ClientResult:
    """Train from the global `weights` (float32 [state]) on the client's own speech.

    The result depends on nothing but the arguments: not on the clients trained before in this process.
    """
    started = time.perf_counter()
    model = context.recogniser.model
    load_state(model, weights)
    rng = seed_everything(seed, "client", server_round, client.id)
    optimizer = build_optimizer(config.optimizer, model, lr)
    penalty = None
    if config.prox > 0:
        anchors = [parameter.detach().clone() for parameter in model.parameters()]

        def penalty(model: nn.Module) -> torch.Tensor:
            """FedProx, arXiv 1812.06127: mu / 2 * ||w - w_global||^2."""
            distances = [(p - a).pow(2).sum() for p, a in zip(model.parameters(), anchors, strict=True)]
            return config.prox / 2 * torch.stack(distances).sum()

    steps, audio, skipped, epoch, last = 0, 0.0, 0, 0, EpochResult()
    while (epoch < config.local_epochs) if config.local_steps is None else (steps < config.local_steps):
        batches = training_batches(client.train, config.batch, rng)
        if config.local_steps is not None:
            batches = batches[: config.local_steps - steps]
        last = train_epoch(
            context,
            batches,
            optimizer,
            rng,
            clip=config.clip,
            with_ctc=config.ctc_epochs is None or epoch < config.ctc_epochs,
            penalty=penalty,
        )
        steps += last.steps
        skipped += last.skipped
        audio += sum(utterance.duration for batch in batches for utterance in batch)
        epoch += 1

    delta = read_delta(model, weights)
    judged = evaluate(
        context.recogniser,
        client.dev or client.train,
        context.cache,
        evaluation.client_decoder,
        evaluation,
        context.device,
    )
    return ClientResult(
        delta=delta,
        num_examples=len(client.train),
        loss=last.loss,
        words=judged.words,
        audio_seconds=audio,
        train_seconds=time.perf_counter() - started,
        skipped_steps=skipped,
    )
