"""How long training takes on a machine: the reference that devices of a fleet are slower than, or faster."""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from scipy.optimize import nnls

from asr_fed.config.schema import Config
from asr_fed.config.simulation import MachineConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import EOS
from asr_fed.model.decoding import decode
from asr_fed.model.recogniser import AcousticModel
from asr_fed.training.optimizer import build_optimizer

CHARACTERS = 40  # pieces of a tokenizer of kind char, about
TOKENS_A_SECOND = 10.0
SIZES = ((2, 1.5), (2, 6.0), (8, 1.5), (8, 6.0))  # batches: utterances, and seconds of each


def measure_machine(config: Config, device: torch.device, repetitions: int = 5) -> MachineConfig:
    """Time local training of the config's model on noise in place of speech, on `device`.

    seconds of a step = step_seconds + train_seconds * seconds of audio in its batch, by least squares over batches of
    four sizes, neither below 0. On a CPU these are CPU seconds over the threads that torch has, so that a busy machine
    gives the same numbers; elsewhere they are wall-clock seconds.
    """
    torch.manual_seed(config.seed)
    vocabulary = config.tokenizer.vocab_size or CHARACTERS
    model = AcousticModel(config.model, config.features.width, vocabulary).to(device)
    optimizer = build_optimizer(config.federation.optimizer, model, 1e-4)
    trained, decoded = [], []
    for utterances, seconds in SIZES:
        batch = noise(config, vocabulary, utterances, seconds).to(device)

        def step(batch: Batch = batch) -> None:
            model.train()
            loss = model.loss(model.normalise(batch.features), batch, config.loss, with_ctc=config.loss.ctc_weight > 0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.federation.clip)
            optimizer.step()

        def hear(batch: Batch = batch) -> None:
            decode(model, batch, config.evaluation.client_decoder, config.evaluation)

        audio = utterances * seconds
        trained.append((1.0, audio, _seconds(step, device, repetitions)))
        decoded.append(_seconds(hear, device, repetitions) / audio)
    rows = np.array(trained)
    rows /= rows[:, 2:]  # relative errors: small batches count as much
    (a_step, a_second), _ = nnls(rows[:, :2], rows[:, 2])
    return MachineConfig(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        step_seconds=_short(a_step),
        train_seconds=_short(max(a_second, 1e-9)),
        decode_seconds=_short(median(decoded)),
    )


def noise(config: Config, vocabulary: int, utterances: int, seconds: float) -> Batch:
    """Random frames and tokens, as many as so much speech has."""
    frames, tokens = round(1000 * seconds / config.features.frame_ms), max(1, round(TOKENS_A_SECOND * seconds))
    return Batch(
        (),
        torch.randn(utterances, frames, config.features.width),
        torch.full((utterances,), frames),
        torch.randint(EOS + 1, vocabulary, (utterances, tokens)),
        torch.full((utterances,), tokens),
    )


def _seconds(work: Callable[[], None], device: torch.device, repetitions: int) -> float:
    """The median, after one that does not count."""
    work()
    return median(_once(work, device) for _ in range(repetitions))


def _once(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.process_time()
        work()
        return (time.process_time() - started) / torch.get_num_threads()
    synchronise = torch.cuda.synchronize if device.type == "cuda" else torch.mps.synchronize
    synchronise()
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started


def _short(value: float) -> float:
    return float(f"{value:.3g}")
