"""The text of one recording, window by window, with the times of its words."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch

from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.audio import audio_blocks
from asr_fed.data.batching import Batch
from asr_fed.data.features import extractor
from asr_fed.model.decoding import decode_states
from asr_fed.model.recogniser import Recogniser
from asr_fed.transcribe.alignment import Word, align_words
from asr_fed.transcribe.speech import SpeechDetector
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
    """Transcribe a recording of any length, on the device of the model, with memory that does not depend on the length.

    A recording that fits into a window gets the same hypothesis as in evaluation. Of a longer recording only the parts
    with detected speech are decoded, one after another.

    Args:
        config: for the beam search, and how much audio to decode at once (`max_seconds_per_batch`).
        on_progress: called with the seconds of audio that were transcribed since the last call.

    Raises UserError where the recording cannot be read.
    """
    config = config or EvaluationConfig()
    model, rate = recogniser.model.eval(), recogniser.features.sample_rate
    compute = extractor(recogniser.features)
    frame_seconds = model.encoder.stride * recogniser.features.frame_ms / 1000
    heard, told = 0, 0.0

    def blocks() -> Iterator[torch.Tensor]:
        nonlocal heard
        for block in audio_blocks(path, rate, math.ceil(window_seconds)):
            heard += len(block)
            yield block

    def tell(seconds: float) -> None:
        nonlocal told
        on_progress(seconds - told)
        told = seconds

    windows: list[Window] = []
    at_once = max(1, int(config.max_seconds_per_batch / window_seconds))
    for cut in _groups(_windows(blocks(), rate, window_seconds), at_once):
        batch = _batch([compute(signal).float() for _, signal in cut], next(model.parameters()).device)
        states, counts = model.encode(batch)
        hypotheses = decode_states(model, states, counts, decoder, config)
        log_probs = model.ctc_log_probs(states).cpu()
        for (start, signal), frames, tokens, count in zip(cut, log_probs, hypotheses, counts, strict=True):
            times = {"start": start / rate, "end": (start + len(signal)) / rate}
            words = align_words(frames[:count], tokens, recogniser.tokenizer, **times, frame_seconds=frame_seconds)
            windows.append(Window(**times, text=recogniser.tokenizer.decode(tokens), words=tuple(words)))
        tell(windows[-1].end)
    tell(heard / rate)
    return Transcript(str(path), heard / rate, tuple(windows))


def _windows(blocks: Iterator[torch.Tensor], rate: int, seconds: float) -> Iterator[tuple[int, torch.Tensor]]:
    """Each window and its first sample; the whole recording if it fits into one window."""
    first, second = next(blocks, torch.empty(0)), next(blocks, None)
    if second is not None or len(first) > seconds * rate:
        rest = [] if second is None else [second]
        yield from cut_into_windows(chain([first, *rest], blocks), rate, seconds, SpeechDetector(rate))
    elif first.any():  # digital silence is not decoded
        yield 0, first


def _groups(windows: Iterator[tuple[int, torch.Tensor]], size: int) -> Iterable[list[tuple[int, torch.Tensor]]]:
    return iter(lambda: list(islice(windows, size)), [])


def _batch(features: list[torch.Tensor], device: torch.device) -> Batch:
    """Features without a reference text."""
    return Batch(
        utterances=(),
        features=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        frames=torch.tensor([len(frames) for frames in features]),
        tokens=torch.zeros(len(features), 0, dtype=torch.int64),
        token_counts=torch.zeros(len(features), dtype=torch.int64),
    ).to(device)
