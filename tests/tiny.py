"""The smallest corpus and the smallest experiment that go all the way from audio to a word error rate."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from omegaconf import OmegaConf

from asr_fed.config.schema import Config, FeatureConfig, ModelConfig
from asr_fed.data.batching import Batch
from asr_fed.data.manifest import Utterance
from asr_fed.data.tokenizer import BLANK, Tokenizer, train_tokenizer
from asr_fed.model.recogniser import AcousticModel, Recogniser

RATE = 16000
WORDS = {
    word: 300 * 1.3**step for step, word in enumerate(("ba", "du", "ki", "mo", "ne", "ra", "su", "ti"))
}  # a tone in Hz each
SPEAKERS = 9
TEXTS = [" ".join(pair) for pair in zip(WORDS, reversed(WORDS), strict=True)]

TINY_MODEL = {
    "cnn_channels": [4, 4],
    "pool_2d": True,
    "time_pooling": 1,
    "rnn_layers": 1,
    "rnn_neurons": 8,
    "dnn_blocks": 1,
    "dnn_neurons": 8,
    "embedding": 4,
    "decoder_neurons": 8,
    "attention_dim": 8,
    "attention_channels": 2,
    "attention_kernel": 5,
}


# What a round's record says of times and of who did the work: not the same in two runs with the same result.
TIMED = {
    *("train_seconds", "round_seconds", "exchange_seconds", "aggregate_seconds", "held_out_seconds"),
    *("workers", "bytes_down", "bytes_up"),
}


@dataclass(frozen=True)
class Corpus:
    """Tables of recordings: under a tenth of the clips of `table` are broken, 30 % of those of `broken_table`."""

    table: Path
    broken_table: Path
    good: int
    broken: int


def write_corpus(folder: Path) -> Corpus:
    """Speaker number i says i + 3 sentences of 3 to 5 words, at a pitch and with a noise of their own."""
    rng = np.random.default_rng(5)
    (folder / "clips").mkdir(parents=True)
    rows = []
    for speaker in range(SPEAKERS):
        for number in range(speaker + 3):
            words = list(rng.choice(list(WORDS), size=rng.integers(3, 6)))
            name = f"clips/s{speaker}_{number}.wav"
            soundfile.write(folder / name, speak(words, 0.9 + 0.02 * speaker, rng), RATE)
            rows.append((name, f"speaker{speaker}", " ".join(words)))
    broken = []
    for number in range(30):
        name = f"clips/broken{number}.wav"
        (folder / name).write_bytes(b"this is no audio" * 50)
        broken.append((name, f"speaker{number % SPEAKERS}", "ba du"))
    few = len(rows) // 10
    write_table(folder / "table.tsv", rows + broken[:few])
    write_table(folder / "broken.tsv", rows + broken[: round(len(rows) * 3 / 7)])
    return Corpus(folder / "table.tsv", folder / "broken.tsv", len(rows), few)


def write_table(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("path", "speaker", "text"), *rows])


def speak(words: list[str], pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A tone of 0.2 s a word, 0.05 s apart, in noise."""
    time = np.arange(round(0.2 * RATE)) / RATE
    tones = [0.4 * np.sin(2 * np.pi * WORDS[word] * pitch * time) for word in words]
    gap = np.zeros(round(0.05 * RATE))
    signal = np.concatenate([part for tone in tones for part in (gap, tone)])
    return (signal + 0.01 * rng.standard_normal(len(signal))).astype(np.float32)


def settings(corpus: Corpus, prepared: Path, run_dir: Path) -> dict[str, Any]:
    """A federation of five speakers, as it would stand in a config file."""
    return {
        "run_dir": str(run_dir),
        "seed": 7,
        "device": "cpu",
        "data": {
            "name": "tiny",
            "language": "en",
            "root": str(corpus.table),
            "prepared": str(prepared),
            "prepare": {
                "_target_": "asr_fed.data_prep.table.prepare",
                "root": "${data.root}",
                "language": "en",
                "min_seconds": 0.3,
            },
            "parts": {
                "warm_up_speakers": 1,
                "warm_up_rule": "most_audio",
                "held_out_speakers": 1,
                "dev_speakers": 1,
                "test_speakers": 1,
            },
        },
        "features": {"n_mels": 16},
        "tokenizer": {"kind": "char", "vocab_size": None},
        "model": TINY_MODEL,
        "augment": {"pauses": 0.0, "time_drop_frames": 5, "frequency_drop_bands": 3},
        "warm_start": {"epochs": 2, "lr": 0.01},
        "federation": {"rounds": 3, "local_epochs": 1, "lr": 0.1, "batch": {"max_utterances": 4}},
        "evaluation": {"test_decoder": "ctc_greedy"},
        "engine": {"workers": 2, "server_threads": 1},
    }


def typed_config(content: dict[str, Any], *changes: str) -> Config:
    """The config object of such settings, with changes such as `federation.clip=1.0`."""
    nowhere = {"run_dir": "nowhere", "data": {"name": "none", "language": "en", "root": "nowhere"}}
    merged = OmegaConf.merge(OmegaConf.structured(Config), nowhere, content, OmegaConf.from_dotlist(list(changes)))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def write_experiment_file(path: Path, content: dict[str, Any], **groups: str) -> Path:
    """A config file of one's own that takes the groups it does not state from hparams/."""
    chosen = {"model": "small", "federation": "cross_device", "algorithm": "fed_avg", "weighting": "wer_softmax"}
    chosen |= {"server": "fed_avgm", "engine": "local"}
    defaults = [
        "schema",
        *({group: choice} for group, choice in (chosen | groups).items()),
    ]
    path.write_text(yaml.safe_dump({"defaults": [*defaults, "_self_"], **content}, sort_keys=False))
    return path


def tiny_model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(TINY_MODEL | {"rnn_layers": 2} | changes))


def tiny_tokenizer() -> Tokenizer:
    from asr_fed.config.schema import TokenizerConfig, TokenizerKind

    return train_tokenizer(TEXTS, TokenizerConfig(TokenizerKind.char, 30))


def tiny_recogniser(seed: int = 3, **changes: Any) -> Recogniser:
    torch.manual_seed(seed)
    return Recogniser.create(tiny_model_config(**changes), FeatureConfig(n_mels=16), tiny_tokenizer())


def talk(model: AcousticModel, seed: int = 2) -> None:
    """Give an untrained model a CTC head that hears many characters and few blanks."""
    linear = model.ctc_head.w
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=torch.Generator().manual_seed(seed)) * 5)
        linear.bias.zero_()[BLANK] = -3


def random_batch(frames: list[int], tokenizer: Tokenizer, seed: int = 1) -> Batch:
    """Noise in place of features; the padding holds zeros, as `collate` leaves it."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(count, 16, generator=generator) * 5 - 10 for count in frames]
    texts = [TEXTS[index % len(TEXTS)] for index in range(len(frames))]
    tokens = [torch.tensor(tokenizer.encode(text)) for text in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(
        utterances=tuple(Utterance(f"u{i}", n / 100, "", "s", texts[i]) for i, n in enumerate(frames)),
        features=pad(features, batch_first=True),
        frames=torch.tensor(frames),
        tokens=pad(tokens, batch_first=True),
        token_counts=torch.tensor([len(sequence) for sequence in tokens]),
    )


def alone(batch: Batch, index: int) -> Batch:
    """The batch of one utterance, without padding."""
    frames, tokens = int(batch.frames[index]), int(batch.token_counts[index])
    return Batch(
        utterances=batch.utterances[index : index + 1],
        features=batch.features[index : index + 1, :frames],
        frames=batch.frames[index : index + 1],
        tokens=batch.tokens[index : index + 1, :tokens],
        token_counts=batch.token_counts[index : index + 1],
    )
