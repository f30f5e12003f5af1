"""What it costs to prepare a run over a large corpus, and to open it again in the server and in a worker.

    python benchmarks/open_experiment.py [--rows 1000000] [--clients 20000] [--against WORKTREE]

There is no audio: all rows name one short recording, and the files that say where its features lie are written without
features. All else (manifest, partition, names of shards, workers) is the product's own, at three playback speeds. Each
step is a fresh process. `--against` measures another checkout too, such as one of `git worktree add WORKTREE COMMIT`.

The figures are CPU seconds, which other programs change little, and megabytes of 1024**2 bytes beyond what the process
had after its imports: at the end of the step, and at its highest (VmRSS and VmHWM, hence Linux).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve()
STEPS = ("prepare", "server", "worker")
FRAMES = 400  # of each utterance
WORDS = ["un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize"]


def write_corpus(folder: Path, rows: int, clients: int) -> None:
    """manifest.csv: speakers of equal size whose utterances lie anywhere in the order of ids, as in Common Voice."""
    import numpy as np
    import soundfile

    from asr_fed.data.manifest import Utterance, write_manifest

    soundfile.write(folder / "speech.wav", np.zeros(1600), 16000)
    draw = random.Random(1)
    numbers = draw.sample(range(10 * rows), rows)
    speakers = clients + 4  # warm-up, held-out, dev, test
    write_manifest(
        folder / "manifest.csv",
        (
            Utterance(
                id=f"common_voice_fr_{number:08}",
                duration=4.0 + row % 7 / 10,
                wav=str(folder / "speech.wav"),
                speaker=f"speaker_{row % speakers:06}",
                text=" ".join(draw.choices(WORDS, k=8)),
            )
            for row, number in enumerate(numbers)
        ),
    )


def prepare(folder: Path) -> Any:
    from omegaconf import OmegaConf

    from asr_fed.config.schema import Config
    from asr_fed.runs.experiment import prepare_experiment
    from asr_fed.runs.run_dir import begin_run

    parts = dict.fromkeys(("warm_up_speakers", "held_out_speakers", "dev_speakers", "test_speakers"), 1)
    data = {"name": "large", "language": "fr", "root": "", "prepared": str(folder), "prepare": None, "parts": parts}
    settings = {
        "run_dir": str(folder / "run"),
        "device": "cpu",
        "data": data,
        "tokenizer": {"kind": "char", "vocab_size": None},
        "model": {"cnn_channels": [4], "rnn_layers": 1, "rnn_neurons": 8, "dnn_neurons": 8, "decoder_neurons": 8},
        "augment": {"speeds": [0.9, 1.0, 1.1]},
    }
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), settings))
    experiment = prepare_experiment(config)
    begin_run(config)
    return experiment


def open_in_server(folder: Path) -> Any:
    from asr_fed.runs.experiment import open_experiment

    return open_experiment(folder / "run")


def open_in_worker(folder: Path) -> Any:
    from asr_fed.federation.client_app import open_worker

    return open_worker(str(folder / "run"), 0, lambda client, seconds: None, lambda: False)


def write_no_features(job: Any) -> None:
    """In place of computing a shard: say where features would lie."""
    rows = [(each.id, n * (FRAMES + 1), (n + 1) * (FRAMES + 1)) for n, each in enumerate(job.utterances)]
    job.path.touch()
    job.path.with_suffix(".json").write_text(json.dumps(rows))


def megabytes(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {key}")


def measure(step: str, folder: Path) -> dict[str, float]:
    """Take one step in this process."""
    import torch

    import asr_fed.federation.client_app  # noqa: F401 what all steps need, so that none is charged for it
    from asr_fed.data import features

    torch.set_num_threads(1)
    steps: dict[str, Callable[[Path], Any]] = dict(zip(STEPS, (prepare, open_in_server, open_in_worker), strict=True))
    with patch.object(features, "_build_shards", lambda jobs, processes: map(write_no_features, jobs)):
        before, started = megabytes("VmRSS"), time.process_time()
        opened = steps[step](folder)
        seconds = time.process_time() - started
        found = {"seconds": seconds, "mb": megabytes("VmRSS") - before, "peak": megabytes("VmHWM") - before}
    del opened
    return found


def measure_apart(code: Path, step: str, folder: Path) -> dict[str, float]:
    """The same with the asr_fed of `code`, in a process of its own."""
    command = [sys.executable, str(HERE), "--step", step, "--folder", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=code, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds and memory to prepare and open a run over many utterances.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=20_000)
    parser.add_argument("--against", type=Path, help="another checkout of asr_fed")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        parser.error("this reads /proc, which only Linux has")
    if arguments.step:
        print(json.dumps(measure(arguments.step, arguments.folder)))
        return
    print(f"{arguments.rows} rows, {arguments.clients} clients")
    for code in filter(None, (arguments.against, HERE.parent.parent)):
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder), arguments.rows, arguments.clients)
            for step in STEPS:
                found = measure_apart(code.resolve(), step, Path(folder))
                told = "CPU {seconds:7.1f} s, {mb:7.1f} MB more, at most {peak:7.1f}".format(**found)
                print(f"{code.resolve().name:20} {step:8} {told}", flush=True)


if __name__ == "__main__":
    main()
