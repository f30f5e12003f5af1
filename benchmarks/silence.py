"""What silence around the words does to recognition: WER of clips with and without it, and of one long recording.

    python benchmarks/silence.py RUN_DIR [--decoders ctc_greedy beam] [--clips N] [--window 20] [--seed 1]

The test clips of a finished run (any decoder that it has trained) are transcribed by `asr_fed.transcribe`: alone;
without their first half hop, as a control, which moves nothing but the grid of frames; with digital zeros of 0.25 s
before, 0.5 s before, 2 s before and after; with 2 s of their own noise before and after, made of the quietest 0.1 s of
each; and one behind the other as one recording of so many minutes, shuffled, with pauses of 0.5 to 3 s, which are
zeros, or noise of the clip before. `difference` is to the clips alone, in points of WER.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer
import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track
from rich.table import Table

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.audio import read_audio
from asr_fed.data.manifest import Utterance
from asr_fed.model.recogniser import Recogniser

# Seconds: where a clip's noise is taken from, and in pieces of which length. The shortest clips of the demo have 0.1 s
# without speech at a time: what is longer holds a part of a word, over and over.
QUIETEST, GRAIN = 0.1, 0.05
PAUSES = 0.5, 3.0  # seconds, in the long recording

# A clip, a length in samples -> what a pause of that length in it sounds like.
Pause = Callable[[np.ndarray, int], np.ndarray]


def zeros(clip: np.ndarray, samples: int) -> np.ndarray:
    return np.zeros(samples, np.float32)


def own_noise(rate: int, rng: np.random.Generator) -> Pause:
    """Pieces from the quietest place of the clip, drawn at random and faded into each other."""

    def pause(clip: np.ndarray, samples: int) -> np.ndarray:
        width = min(round(QUIETEST * rate), len(clip))
        energy = np.convolve(clip.astype(np.float64) ** 2, np.ones(width), "valid")
        at = int(energy.argmin())
        quiet = clip[at : at + width]
        grain = min(round(GRAIN * rate), width)
        noise = np.zeros(samples + 2 * grain)
        for start in range(0, samples + grain, grain // 2):
            first = rng.integers(width - grain + 1)
            # Neighbours are unrelated: their powers add up, so the window's square has to add up to 1.
            noise[start : start + grain] += quiet[first : first + grain] * np.sin(
                np.pi * (np.arange(grain) + 0.5) / grain
            )
        return noise[grain // 2 : grain // 2 + samples].astype(np.float32)

    return pause


def with_pauses(clips: Sequence[np.ndarray], rate: int, pause: Pause, before: float, after: float) -> list[np.ndarray]:
    lengths = [round(seconds * rate) for seconds in (before, after)]
    return [np.concatenate([pause(clip, lengths[0]), clip, pause(clip, lengths[1])]) for clip in clips]


def as_one(clips: Sequence[np.ndarray], rate: int, pause: Pause, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([part for clip in clips for part in (clip, pause(clip, round(rng.uniform(*PAUSES) * rate)))])


def word_error_rate(
    recogniser: Recogniser,
    signals: Sequence[np.ndarray],
    texts: Sequence[str],
    decoder: Decoder,
    evaluation: EvaluationConfig,
    window: float,
    title: str,
) -> float:
    """Percent, by the command's own function; the signals go through files of 16-bit samples, as recordings do."""
    from asr_fed.transcribe.transcript import transcribe

    heard = []
    with tempfile.TemporaryDirectory() as folder:
        for signal in track(signals, title, transient=True):
            path = Path(folder) / "recording.wav"
            soundfile.write(path, signal, recogniser.features.sample_rate)
            heard.append(transcribe(recogniser, path, decoder=decoder, config=evaluation, window_seconds=window).text)
    return 100 * jiwer.wer(list(texts), heard)


def test_clips(run_dir: Path, most: int | None, seed: int) -> list[Utterance]:
    """In random order."""
    from asr_fed.data.partition_files import read_partition

    speech = read_partition(run_dir / "partition").test
    order = np.random.default_rng(seed).permutation(len(speech))
    return [speech[index] for index in order][:most]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="WER with and without silence around the words.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--model", type=Path, help="another checkpoint or folder than the run's own")
    parser.add_argument("--decoders", nargs="+", default=["ctc_greedy"], choices=[each.name for each in Decoder])
    parser.add_argument("--clips", type=int, help="so many, drawn at random; by default all")
    parser.add_argument("--window", type=float, default=20.0, help="seconds, of the long recording")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    import torch

    from asr_fed.interop.open_recogniser import open_recogniser
    from asr_fed.runs.experiment import evaluation_of

    torch.set_num_threads(1)
    recogniser, evaluation = open_recogniser(arguments.model or arguments.run_dir), evaluation_of(arguments.run_dir)
    rate = recogniser.features.sample_rate
    speech = test_clips(arguments.run_dir, arguments.clips, arguments.seed)
    clips = [read_audio(each.wav, rate).numpy() for each in speech]
    texts = [each.text for each in speech]

    def rng() -> np.random.Generator:
        return np.random.default_rng(arguments.seed)

    noise = own_noise(rate, rng())
    ways = {
        "clips alone": clips,
        "without the first half hop": [clip[round(rate * recogniser.features.hop_ms / 2000) :] for clip in clips],
        "0.25 s of zeros before": with_pauses(clips, rate, zeros, 0.25, 0),
        "0.5 s of zeros before": with_pauses(clips, rate, zeros, 0.5, 0),
        "2 s of zeros before and after": with_pauses(clips, rate, zeros, 2, 2),
        "2 s of own noise before and after": with_pauses(clips, rate, noise, 2, 2),
        "one recording, pauses of zeros": [as_one(clips, rate, zeros, rng())],
        "one recording, pauses of own noise": [as_one(clips, rate, noise, rng())],
    }
    minutes = len(ways["one recording, pauses of zeros"][0]) / rate / 60
    words = sum(len(text.split()) for text in texts)
    table = Table(title=f"{len(clips)} clips, {words} words; the long recordings last {minutes:.1f} minutes")
    for column in ("WER %", *(part for name in arguments.decoders for part in (name, "difference"))):
        table.add_column(column, justify="left" if column == "WER %" else "right")
    alone: dict[str, float] = {}
    for title, signals in ways.items():
        cells = []
        for name in arguments.decoders:
            spoken = texts if len(signals) == len(texts) else [" ".join(texts)]
            wer = word_error_rate(recogniser, signals, spoken, Decoder[name], evaluation, arguments.window, title)
            cells += [f"{wer:.2f}", f"{wer - alone.setdefault(name, wer):+.2f}"]
        table.add_row(title, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
