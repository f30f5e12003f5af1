"""What the benchmarks of the federation share: a run directory full of clients that hold noise.

Cost follows the amount of speech, not its meaning. A few recordings are written; every client refers to the same
ones under utterance ids of its own, so that 2,000 clients need no hours of audio on disk. All else (manifest,
partition, tokenizer, features, checkpoint) is made by the functions that make it for real speech.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from omegaconf import OmegaConf

from asr_fed.config.check import check_config
from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Config
from asr_fed.data.manifest import Utterance, write_manifest

SAMPLE_RATE = 16000
UTTERANCE_SECONDS = 2.5  # on average; lengths within a client vary by SPREAD around it
SPREAD = 0.3
TAKES = 8  # recordings of each length
WORDS_PER_SECOND = 2.0
WORDS = ["un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize"]


def make_run(
    folder: Path,
    clients: int,
    seconds: float,
    federation: dict[str, Any],
    model: str,
    threads: int,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Prepare `clients` clients of `seconds` seconds of audio each in `folder`; returns the run directory.

    Args:
        federation: settings that differ from the schema's, such as `local_epochs`.
        model: a file of hparams/model/; its initial weights are the warm start.
        threads: torch threads of the server and of each worker.
        changes: any other settings, by section.
    """
    from asr_fed.model.recogniser import save_recogniser
    from asr_fed.model.state import layout
    from asr_fed.runs.experiment import prepare_experiment
    from asr_fed.runs.run_dir import begin_run, claim_run_dir

    started = time.perf_counter()
    prepared, warm_up = folder / "prepared", folder / "warm_up.txt"
    write_manifest(prepared / "manifest.csv", _utterances(prepared / "audio", clients, seconds))
    warm_up.write_text("warm_up\n")
    settings = {
        "run_dir": str(folder / "run"),
        "device": "cpu",
        "data": {
            "name": "noise",
            "language": "fr",
            "root": str(folder),
            "prepared": str(prepared),
            "parts": {"warm_up_file": str(warm_up)},
        },
        "features": {"n_mels": 40, "hop_ms": 20},
        "tokenizer": {"kind": "char", "vocab_size": None},
        "model": OmegaConf.load(experiments_folder() / "model" / f"{model}.yaml"),
        "augment": {"time_drop_frames": 10, "frequency_drop_bands": 8},
        "federation": {"lr": 0.01, "batch": {"max_utterances": 4}, "held_out": {"epochs": 0}, **federation},
        "engine": {"threads_per_worker": threads, "server_threads": threads},
    }
    resolved = OmegaConf.merge(OmegaConf.structured(Config), settings, changes or {})
    check_config(resolved)  # type: ignore[arg-type]
    config: Config = OmegaConf.to_object(resolved)  # type: ignore[assignment]
    with claim_run_dir(config):
        experiment = prepare_experiment(config)
        begin_run(config)
        recogniser = experiment.fresh_recogniser()
        save_recogniser(recogniser, experiment.checkpoints / "warm_start.pt")
    parameters, spent = layout(recogniser.model).parameters, time.perf_counter() - started
    print(f"{clients} clients of {seconds:g} s, {parameters:,} parameters: prepared in {spent:.0f} s", flush=True)
    return experiment.run_dir


def _utterances(folder: Path, clients: int, seconds: float) -> list[Utterance]:
    """Those of the clients and of three more speakers, named `warm_up`, `dev` and `test`."""
    rng = np.random.default_rng(0)
    count = max(2, round(seconds / UTTERANCE_SECONDS))
    folder.mkdir(parents=True, exist_ok=True)
    takes: list[list[tuple[str, float, str]]] = []
    for number, share in enumerate(np.linspace(1 - SPREAD, 1 + SPREAD, count)):
        duration = float(share) * seconds / count
        takes.append([])
        for take in range(TAKES):
            path = folder / f"{number}-{take}.wav"
            soundfile.write(path, 0.1 * rng.standard_normal(round(duration * SAMPLE_RATE)), SAMPLE_RATE)
            words = rng.choice(WORDS, size=max(1, round(duration * WORDS_PER_SECOND)))
            takes[-1].append((str(path), duration, " ".join(words)))
    utterances = []
    for index, speaker in enumerate(["warm_up", "dev", "test", *(f"client{n:05d}" for n in range(clients))]):
        for number in range(count):
            wav, duration, text = takes[number][(index + number) % TAKES]
            if speaker == "warm_up":
                text = " ".join(WORDS)  # the vocabulary, and so the model, is the same for any number of clients
            split = speaker if speaker in ("dev", "test") else "train"
            utterances.append(Utterance(f"{speaker}-{number:03d}", duration, wav, speaker, text, split=split))
    return utterances
