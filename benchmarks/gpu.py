"""What one GPU does with the paper's joint model, in one command of under eight minutes.

    python benchmarks/gpu.py [--output gpu.json]
    python benchmarks/gpu.py --small          # a tiny model, on the CPU where there is no GPU: under a minute

Four things, each with what it needs of memory:

- step: a training step of 8 clips of 5 s (hparams/cv_fr.yaml: 80 bands, 500 tokens, CTC and attention), in fp32 and in
  bf16, by our own loop (`train_epoch`) and by SpeechBrain's (`Brain.fit_batch` over SpeechBrain's own forward pass and
  losses) with the same modules and weights. They take turns in every repetition; milliseconds are medians.
- workers: clips per second of 1, 2, 4, ... workers that share the GPU, and the number that a run would choose
  (asr_fed/engines/worker_count.py).
- round: seconds of one round of the federation, with 1 and 2 workers.
- bits: whether a round repeated by 1 worker, and one by 2 workers, gives the same weights. On a GPU some kernels add in
  an order of their own, CTC's gradient among them: then already the repetition differs.

Features are noise: time does not depend on what is said. A part that would begin after --minutes is left out and named.
"""

import argparse
import copy
import gc
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table
from speechbrain import Brain, Stage
from speechbrain.nnet.losses import ctc_loss, nll_loss
from synthetic_clients import make_run

from asr_fed.aggregation.update import mean
from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import LossConfig, ModelConfig, Precision
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, BOS, EOS
from asr_fed.engines.open_workers import open_workers
from asr_fed.engines.worker_count import longest_clips, pick_workers, probe
from asr_fed.federation.federation import Federation
from asr_fed.federation.rounds import apply_update, run_round
from asr_fed.federation.state import begin
from asr_fed.model.recogniser import AcousticModel, load_recogniser
from asr_fed.model.state import state_sha256
from asr_fed.runs.experiment import Experiment, open_experiment, pick_device
from asr_fed.training.epoch import train_epoch

CLIP, LR = 5.0, 1e-4


@dataclass(frozen=True)
class Size:
    """What is measured: the model and its input, the clients of a round, and how often.

    client_seconds: speech for several steps: a single one may repeat itself to the bit where a training does not.
    """

    model: str
    mels: int
    hop_ms: int
    vocabulary: int
    clips: int
    seconds: float
    tokens: int
    repetitions: int
    workers: tuple[int, ...]
    clients: int
    client_seconds: float


PAPER = Size("crdnn", 80, 10, 500, 8, 5.0, 25, 7, (1, 2, 4, 8), 4, 60.0)
SMALL = Size("tiny", 40, 20, 36, 2, 1.0, 8, 2, (1,), 2, 15.0)


@dataclass(frozen=True)
class NoiseTask:
    """A `Task` (asr_fed.training.task) whose every batch is the same."""

    model: AcousticModel
    batch: Batch
    loss_config: LossConfig
    precision: Precision
    device: torch.device

    def collate(self, utterances: Any, rng: np.random.Generator) -> Batch:
        return self.batch

    def loss(self, batch: Batch, *, with_ctc: bool) -> torch.Tensor:
        return self.model.loss(batch.features, batch, self.loss_config, with_ctc=with_ctc)


class SpeechBrainLoop(Brain):  # type: ignore[misc]
    """SpeechBrain's recipe for CTC and attention (recipes/CommonVoice/ASR/seq2seq), over the modules of one model."""

    def compute_forward(self, batch: Batch, stage: Stage) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lengths = batch.frames / batch.features.shape[1]
        states = self.modules.crdnn(batch.features)
        inputs = torch.nn.functional.pad(batch.tokens, (1, 0), value=BOS)
        outputs, _ = self.modules.decoder(self.modules.embedding(inputs), states, lengths)
        ctc = self.modules.ctc_head(states).log_softmax(-1)
        return ctc, self.modules.decoder_head(outputs).log_softmax(-1), lengths

    def compute_objectives(self, predictions: Any, batch: Batch, stage: Stage) -> torch.Tensor:
        ctc, attention, lengths = predictions
        targets = torch.nn.functional.pad(batch.tokens, (0, 1), value=EOS)
        share, whole = batch.token_counts / batch.tokens.shape[1], (batch.token_counts + 1) / targets.shape[1]
        loss: torch.Tensor = 0.3 * ctc_loss(ctc, batch.tokens, lengths, share, blank_index=BLANK)
        loss += 0.7 * nll_loss(attention, targets, length=whole, label_smoothing=0.1)
        return loss


@dataclass
class Found:
    """All that was measured, as the JSON has it; seconds unless a name says otherwise."""

    machine: dict[str, Any] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    workers: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def noise(size: Size, device: torch.device) -> Batch:
    frames = round(1000 * size.seconds / size.hop_ms)
    features = torch.randn(size.clips, frames, size.mels, device=device)
    tokens = torch.randint(3, size.vocabulary, (size.clips, size.tokens), device=device)
    lengths = (torch.full((size.clips,), count, device=device) for count in (frames, size.tokens))
    return Batch((), features, next(lengths), tokens, next(lengths))


def model_config(size: Size) -> ModelConfig:
    path = experiments_folder() / "model" / f"{size.model}.yaml"
    return ModelConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def measure_steps(size: Size, device: torch.device) -> dict[str, Any]:
    """Milliseconds and peak GPU memory of a step, by who makes it and how precisely.

    The memory is that of weights, gradients and step, as if the model were alone on the GPU.
    """
    torch.manual_seed(0)
    batch, model = noise(size, device), AcousticModel(model_config(size), size.mels, size.vocabulary).to(device)
    ways: dict[str, Callable[[], object]] = {}
    for precision in Precision:
        ways[f"ours, {precision.name}"] = own_step(copy.deepcopy(model), batch, precision, device)
        ways[f"SpeechBrain, {precision.name}"] = speechbrain_step(copy.deepcopy(model), batch, precision, device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, float] = {}
    for repetition in range(size.repetitions + 1):
        for name, step in ways.items():
            spent, peak = timed(step, device)
            if repetition:  # the first one chooses kernels and reserves memory
                times[name].append(1000 * spent)
                peaks[name] = max(peak, peaks.get(name, 0.0))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found: dict[str, Any] = {"parameters": parameters}
    for name, own in times.items():
        memory = peaks[name] + 2 * 4 * parameters / 1e6 if peaks[name] else None
        times_of: dict[str, Any] = {"milliseconds": statistics.median(own), "fastest": min(own), "slowest": max(own)}
        found[name] = times_of | {"peak_mb": memory}
    return found


def own_step(model: AcousticModel, batch: Batch, precision: Precision, device: torch.device) -> Callable[[], object]:
    task: Any = NoiseTask(model, batch, LossConfig(ctc_weight=0.3, label_smoothing=0.1), precision, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    chunk = [()] * len(batch.frames)  # as many as the loss is a mean over
    return lambda: train_epoch(task, [chunk], optimizer, np.random.default_rng(0), clip=CLIP)  # type: ignore[list-item]


def speechbrain_step(
    model: AcousticModel, batch: Batch, precision: Precision, device: torch.device
) -> Callable[[], object]:
    parts = ("ctc_head", "embedding", "decoder", "decoder_head")
    modules = {"crdnn": model.encoder.crdnn, **{name: getattr(model, name) for name in parts}}
    logging.getLogger("speechbrain").setLevel(logging.ERROR)
    brain = SpeechBrainLoop(
        modules,
        opt_class=lambda parameters: torch.optim.SGD(parameters, lr=LR),
        run_opts={"device": str(device), "precision": precision.name, "max_grad_norm": CLIP},
    )
    brain.on_fit_start()
    brain.modules.train()
    return lambda: brain.fit_batch(batch)


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds, and MB of GPU memory that it takes at its peak besides what was there before (0 on a CPU)."""
    cuda, before = device.type == "cuda", 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
    started = time.perf_counter()
    step()
    if cuda:
        torch.cuda.synchronize(device)
    spent = time.perf_counter() - started
    return spent, (torch.cuda.max_memory_allocated(device) - before) / 1e6 if cuda else 0.0


def prepare(size: Size, folder: Path, device: torch.device) -> Experiment:
    changes = {
        "device": device.type,
        "features": {"n_mels": size.mels, "hop_ms": size.hop_ms},
        "tokenizer": {"kind": "unigram", "vocab_size": 60},  # a word a token: characters would not fit into the states
        "loss": {"ctc_weight": 0.3},
    }
    federation = {"local_epochs": 1, "batch": {"max_utterances": size.clips}}
    run_dir = make_run(folder, size.clients, size.client_seconds, federation, size.model, 1, changes)
    return open_experiment(run_dir)


def measure_workers(size: Size, experiment: Experiment, device: torch.device) -> dict[str, Any]:
    """Clips per second of so many workers at once, and what a run would choose."""
    found: dict[str, Any] = {}
    for workers in size.workers:
        measured = probe(str(experiment.run_dir), longest_clips(experiment), workers, 1, device)
        if measured is None:
            found[str(workers)] = "out of memory"
            break
        rate, each = measured.clips_per_second, measured.bytes_per_worker
        found[str(workers)] = {"clips_per_second": rate, "mb_per_worker": each / 1e6}
    experiment.config.engine.workers = None
    return found | {"chosen": pick_workers(experiment)}


def measure_rounds(experiment: Experiment, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds of a round, and the weights that it makes, with 1 and with 2 workers; with 1 a second time too."""
    recogniser = load_recogniser(experiment.checkpoints / "warm_start.pt")
    state = begin(experiment, experiment.recognition(recogniser, device))
    rounds: dict[str, Any] = {}
    weights: dict[str, str] = {}
    for workers in (1, 2):
        experiment.config.engine.workers = workers
        with open_workers(experiment) as pool:
            federation = Federation.open(experiment, pool, recogniser.model)
            for attempt in ("first", "repeated"):
                started = time.perf_counter()
                result = run_round(federation, state, 1, LR)
                following, *_ = apply_update(federation, state, result.update)
                spent = time.perf_counter() - started
                if result.numbers["failures"]:
                    raise SystemExit(f"Clients failed: {list(result.numbers['failures'].items())[:3]}")
                rounds[f"{workers}, {attempt}"] = {"seconds": spent, "training": result.numbers["train_seconds"]}
                weights[f"{workers}, {attempt}"] = state_sha256(following)
                moved = float(np.abs(mean(result.update)).max())
    bits = {
        "one worker repeats itself": weights["1, first"] == weights["1, repeated"],
        "two workers give what one gives": weights["1, first"] == weights["2, first"],
        "largest change of a weight": moved,
        "weights_sha256": weights,
    }
    return rounds, bits


def machine(device: torch.device) -> dict[str, Any]:
    about: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {"gpu": properties.name, "memory_mb": properties.total_memory / 1e6, "cuda": torch.version.cuda}
    return about


def show(found: Found) -> None:
    table = Table(title=f"{found.machine.get('gpu', found.machine['device'])}, model={found.size['model']}")
    for column in ("what", "", "value", "memory, MB"):
        table.add_column(column, justify="right" if column in ("value", "memory, MB") else "left")
    for name, each in found.step.items():
        if name == "parameters":
            table.add_row("parameters", "", f"{each / 1e6:.1f} M", "")
            continue
        spread = f"{each['milliseconds']:.1f} ms ({each['fastest']:.1f}-{each['slowest']:.1f})"
        table.add_row("step", name, spread, "" if each["peak_mb"] is None else f"{each['peak_mb']:.0f}")
    for name, each in found.workers.items():
        if isinstance(each, dict):
            table.add_row("workers", name, f"{each['clips_per_second']:.1f} clips/s", f"{each['mb_per_worker']:.0f}")
        else:
            table.add_row("workers", name, str(each), "")
    for name, each in found.rounds.items():
        table.add_row("round", f"workers: {name}", f"{each['seconds']:.2f} s", "")
    for name, each in found.bits.items():
        if isinstance(each, bool):
            table.add_row("bits", name, "yes" if each else "no", "")
    Console().print(table)
    for part in found.left_out:
        print(f"Left out, for it would have begun too late: {part}.")


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description="The paper's joint model on one GPU: step, workers, round, bits.")
    parser.add_argument("--small", action="store_true", help="a tiny model and few clips, also without a GPU")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins later than that")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if not torch.cuda.is_available() and not arguments.small:
        raise SystemExit("There is no NVIDIA GPU that torch can use. --small measures a tiny model on the CPU.")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    device, size = pick_device("auto"), SMALL if arguments.small else PAPER
    if device.type == "cpu":
        torch.set_num_threads(1)
    found = Found(machine=machine(device), size=asdict(size))

    def in_time(part: str) -> bool:
        if time.perf_counter() - started < 60 * arguments.minutes:
            return True
        found.left_out.append(part)
        return False

    found.step = measure_steps(size, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # for the workers, which are other processes
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(size, Path(folder), device)
        if in_time("round and bits"):
            found.rounds, found.bits = measure_rounds(experiment, device)
        if in_time("workers"):
            found.workers = measure_workers(size, experiment, device)
    found.machine["seconds"] = time.perf_counter() - started
    arguments.output.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    show(found)
    print(f"{found.machine['seconds']:.0f} s; all numbers are in {arguments.output}")


if __name__ == "__main__":
    main()
