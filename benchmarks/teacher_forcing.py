"""A training step with our teacher forcing against one with SpeechBrain's own attention decoder.

    python benchmarks/teacher_forcing.py [--model tiny small] [--batch 4 8] [--repetitions 15]

Both decoders hold the same weights and see the same noise in place of speech, with as many frames and tokens as clips
of 2 to 3.2 s with 20 to 36 characters have. They take turns in every repetition; times are CPU milliseconds of one
thread, medians, and the ratio is computed within each repetition. `decoder` is the attention decoder alone, forward and
backward; `step` is the loss of the whole joint model (encoder, CTC, attention) and its gradients; `CTC alone` is the
same step with ctc_weight 1, for comparison.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

MELS, VOCABULARY = 40, 36
FRAMES, TOKENS = (100, 160), (20, 36)  # of 20 ms


def seconds(function: Callable[[], torch.Tensor]) -> float:
    started = process_time()
    function().backward()
    return process_time() - started


def measure(name: str, size: int, repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of each repetition by what was timed."""
    from asr_fed.config.schema import LossConfig, ModelConfig
    from asr_fed.data.batching import Batch
    from asr_fed.model import recogniser
    from asr_fed.model.teacher_forcing import teacher_forced

    replaceable: Any = recogniser  # the module, whose function is exchanged

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hparams = Path(__file__).parent.parent / "hparams"
    config = ModelConfig(**yaml.safe_load((hparams / "model" / f"{name}.yaml").read_text(encoding="utf-8")))
    model = recogniser.AcousticModel(config, MELS, VOCABULARY)
    frames, tokens = torch.randint(*FRAMES, (size,)), torch.randint(*TOKENS, (size,))
    features, text = torch.randn(size, int(frames.max()), MELS), torch.randint(3, VOCABULARY, (size, int(tokens.max())))
    batch = Batch((), features, frames, text, tokens)
    states, counts = (each.detach() for each in model.encoder(features, frames))
    inputs = model.embedding(text).detach()

    def speechbrain(
        decoder: torch.nn.Module, inputs: torch.Tensor, states: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        outputs: torch.Tensor = decoder(inputs, states, counts / states.shape[1])[0]
        return outputs

    def step(ctc_weight: float) -> torch.Tensor:
        return model.loss(features, batch, LossConfig(ctc_weight), with_ctc=True)

    def decode() -> torch.Tensor:
        outputs: torch.Tensor = replaceable.teacher_forced(model.decoder, inputs, states, counts)
        return outputs.sum()

    times: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        own = {"CTC alone": seconds(lambda: step(1.0))}
        for who, force in (("SpeechBrain", speechbrain), ("ours", teacher_forced)):
            replaceable.teacher_forced = force
            own[f"decoder, {who}"] = seconds(decode)
            own[f"step, {who}"] = seconds(lambda: step(0.3))
        if repetition:
            for what, value in own.items():
                times.setdefault(what, []).append(value)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> str:
    ratios = [a / b for a, b in zip(times[above], times[below], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of a training step, our teacher forcing against SpeechBrain's.")
    parser.add_argument("--model", nargs="+", default=["tiny"], help="files of hparams/model")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    table = Table(title=f"CPU ms, one thread, {arguments.repetitions} repetitions")
    for column in ("model", "batch", "", "SpeechBrain", "ours", "SpeechBrain / ours (min-max)", "ours / CTC alone"):
        table.add_column(column, justify="right")
    for name in arguments.model:
        for size in arguments.batch:
            times = measure(name, size, arguments.repetitions)
            for what in ("decoder", "step"):
                theirs, ours = f"{what}, SpeechBrain", f"{what}, ours"
                against_ctc = ratio(times, ours, "CTC alone") if what == "step" else ""
                middle = (f"{1000 * statistics.median(times[one]):.1f}" for one in (theirs, ours))
                table.add_row(name, str(size), what, *middle, ratio(times, theirs, ours), against_ctc)
    Console().print(table)


if __name__ == "__main__":
    main()
