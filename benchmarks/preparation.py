"""Preparation against a plain soundfile decode of the same clips, both in one process.

    python benchmarks/preparation.py ROOT [--language fr] [--repetitions 7]

ROOT is a Common Voice release or a LibriSpeech folder. The two alternate in one run; the figure is the
median ratio of their speeds (audio hours a minute of one core), 1 meaning that everything but decoding
is free.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import soundfile

from asr_fed.data_prep import common_voice, librispeech
from asr_fed.data_prep.measure import quiet_stderr, read_probes


def prepare_once(root: Path, language: str) -> tuple[float, list[str], float]:
    """Seconds of a preparation without a cache, the files it decoded, and their audio hours."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        manifest = str(Path(folder) / "manifest.csv")
        start = time.perf_counter()
        if any(root.rglob("*.tsv")):
            common_voice.prepare(str(root), manifest, language=language, workers=1)
        else:
            librispeech.prepare(str(root), manifest, workers=1)
        seconds = time.perf_counter() - start
        probes = read_probes(Path(folder) / "preparation_cache.jsonl")
    return seconds, list(probes), sum(probe.seconds for probe in probes.values()) / 3600


def decode_once(paths: list[str]) -> float:
    """Seconds of the plain loop."""
    with quiet_stderr():
        start = time.perf_counter()
        for path in paths:
            soundfile.read(path, dtype="float32")
        return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of preparation against a plain decode.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--language", default="", help="default: the name of the root folder")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    language = arguments.language or arguments.root.resolve().name
    _, paths, hours = prepare_once(arguments.root, language)
    ratios = []
    for _ in range(arguments.repetitions):
        plain = decode_once(paths)
        prepared, _, _ = prepare_once(arguments.root, language)
        ratios.append(plain / prepared)
        print(f"plain {hours / plain * 60:6.1f} h/min, prepared {hours / prepared * 60:6.1f} h/min")
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{len(paths)} clips, {hours:.2f} h: median ratio {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
