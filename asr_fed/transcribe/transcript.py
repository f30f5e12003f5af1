"""The text of one recording, window by window, with the times of its words."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.audio import audio_blocks
from asr_fed.data.batching import Batch
from asr_fed.data.features import filterbank
from asr_fed.model.decoding import decode_states
from asr_fed.model.recogniser import Recogniser
from asr_fed.transcribe.alignment import Word, align_words
from asr_fed.transcribe.windows import cut_into_windows


@dataclass(frozen=True)
class Window:
    """What was decoded at once: seconds from the beginning of the recording."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Transcript:
    """`text` is that of the windows, joined by spaces; duration in seconds."""

    path: str
    duration: float
    windows: tuple[Window, ...]

    @property
    def text(self) -> str:
        return " ".join(window.text for window in self.windows if window.text)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for window in self.windows for word in window.words)


@torch.no_grad()
def transcribe(
    recogniser: Recogniser,
    path: str | Path,
    *,
    decoder: Decoder = Decoder.ctc_greedy,
    config: EvaluationConfig | None = None,
    window_seconds: float = 20.0,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> Transcript:
    """Transcribe a recording of any length on the device that the model is on, in memory that does not grow with it.

    A recording that is no longer than a window gets the hypothesis that evaluation gives it.

    Args:
        config: for the beam search, and how much audio to decode at once (`max_seconds_per_batch`).
        on_progress: is told how many seconds of audio were transcribed since it was last told.

    Raises UserError where the recording cannot be read.
    """
    config = config or EvaluationConfig()
    model, rate = recogniser.model.eval(), recogniser.features.sample_rate
    compute = filterbank(recogniser.features)
    frame_seconds = model.encoder.stride * recogniser.features.hop_ms / 1000
    blocks = audio_blocks(path, rate, math.ceil(window_seconds))
    windows: list[Window] = []
    start = 0
    at_once = max(1, int(config.max_seconds_per_batch / window_seconds))
    for signals in _groups(cut_into_windows(blocks, rate, window_seconds), at_once):
        batch = _batch([compute(signal).float() for signal in signals], next(model.parameters()).device)
        states, counts = model.encode(batch)
        hypotheses = decode_states(model, states, counts, decoder, config)
        log_probs = model.ctc_log_probs(states).cpu()
        for signal, frames, tokens, count in zip(signals, log_probs, hypotheses, counts, strict=True):
            end = start + len(signal)
            times = {"start": start / rate, "end": end / rate}
            words = align_words(frames[:count], tokens, recogniser.tokenizer, **times, frame_seconds=frame_seconds)
            windows.append(Window(**times, text=recogniser.tokenizer.decode(tokens), words=tuple(words)))
            start = end
        on_progress(sum(map(len, signals)) / rate)
    return Transcript(str(path), start / rate, tuple(windows))


def _groups(signals: Iterator[torch.Tensor], size: int) -> Iterable[list[torch.Tensor]]:
    return iter(lambda: list(islice(signals, size)), [])


def _batch(features: list[torch.Tensor], device: torch.device) -> Batch:
    """Features without a reference text."""
    return Batch(
        utterances=(),
        features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        frames=torch.tensor([len(frames) for frames in features]),
        tokens=torch.zeros(len(features), 0, dtype=torch.int64),
        token_counts=torch.zeros(len(features), dtype=torch.int64),
    ).to(device)
