"""A corpus with the shape of Common Voice French, spoken by espeak-ng: thousands of speakers, most with a few clips.

    python -m asr_fed.data_prep.cv_shape data/cv_shape data/cv_shape/manifest.csv

It shows the effects of scale that a small corpus cannot: thousands of clients, speech at 0 to 35 dB SNR, rooms, codecs,
clipping, three accents, words that training never said, and some wrong transcripts. Its WERs say nothing about real
speech.

It lies in a folder named after its parameters, as that of `synthetic` does. Speakers are made in `BLOCKS` blocks, each
in a process of its own, so that the samples do not depend on the number of cores.
"""

import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asr_fed.data.manifest import Utterance, read_manifest, write_manifest
from asr_fed.data_prep import french_sentences
from asr_fed.data_prep.cv_shape_speakers import Handset, draw_clips, draw_speaker, in_room, through
from asr_fed.data_prep.espeak import Espeak
from asr_fed.data_prep.synthetic_folder import digest, made_once, run_generator
from asr_fed.data_prep.synthetic_speakers import Speaker, record, say, write_clip
from asr_fed.data_prep.text import normalise
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_csv
from asr_fed.system.processes import available_cores

LOCALE = "fr"
BLOCKS = 24
GENERATOR = (
    "cv_shape.py",
    "cv_shape_speakers.py",
    "french_sentences.py",
    "synthetic_speakers.py",
    "espeak.py",
    "text.py",
)
EVALUATION_CLIPS = 2  # of a dev or test speaker, at most
WRONG_CLIPS = 0.5  # of the clips of a speaker who misreads


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """A speaker, what he is heard through, and what he says: `said` is spoken, `written` is the transcript."""

    speaker: Speaker
    handset: Handset
    misreads: bool
    said: tuple[str, ...]
    written: tuple[str, ...]


def prepare(
    root: str,
    manifest: str,
    *,
    speakers: int = 4117,
    dev_speakers: int = 200,
    test_speakers: int = 2000,
    misreading: float = 0.02,
    seed: int = 1,
) -> list[Utterance]:
    """Generate the corpus under `root` unless it is there already, write its manifest, and return it.

    `misreading` is the share of the training speakers half of whose transcripts are those of other sentences. The
    speech does not depend on it. Same parameters, same espeakng-loader, numpy and soundfile: the same samples.

    Raises UserError where espeak-ng is missing, a count or the share is out of range, or generation is stopped from
    outside.
    """
    if min(speakers, test_speakers) < 1 or min(dev_speakers, seed) < 0 or not 0 <= misreading <= 1:
        raise UserError(
            f"speakers={speakers}, dev_speakers={dev_speakers}, test_speakers={test_speakers}, seed={seed}, "
            f"misreading={misreading}: speakers and test_speakers are at least 1, dev_speakers and seed at least 0, "
            "misreading is a share from 0 to 1."
        )
    counts = {"train": speakers, "dev": dev_speakers, "test": test_speakers}
    parameters = {"speakers": counts, "misreading": misreading, "seed": seed}
    folder = Path(root) / f"{LOCALE}-{speakers}-{digest(parameters, GENERATOR)}"
    with made_once(folder) as partial:
        if partial:
            _generate(partial, draw_voices(counts, misreading, seed), seed)
            (partial / "parameters.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
    utterances = read_manifest(folder / "utterances.csv")
    write_manifest(manifest, utterances)
    return utterances


def draw_voices(counts: dict[str, int], misreading: float, seed: int) -> list[Voice]:
    """All speakers with their sentences; no sentence is said twice, so none of test is one of training."""
    taken: set[str] = set()
    voices = []
    for split, count in counts.items():
        for number in range(count):
            rng = np.random.default_rng([seed, list(counts).index(split), number])
            speaker, handset = draw_speaker(f"{split}-{number:04d}", split, rng)
            clips = draw_clips(rng)
            if split != "train":
                clips = min(clips, EVALUATION_CLIPS)
            said = tuple(_new_sentence(rng, taken) for _ in range(clips))
            misreads = split == "train" and rng.random() < misreading
            wrong = rng.random(clips) < WRONG_CLIPS
            other = [_sentence(rng) for _ in said]
            written = tuple(other[at] if misreads and wrong[at] else text for at, text in enumerate(said))
            voices.append(Voice(speaker, handset, misreads, said, written))
    return voices


def _new_sentence(rng: np.random.Generator, taken: set[str]) -> str:
    while (text := _sentence(rng)) in taken:
        pass
    taken.add(text)
    return text


def _sentence(rng: np.random.Generator) -> str:
    text = normalise(french_sentences.say(rng), LOCALE)
    assert text, "the grammar has nothing that French transcripts refuse"
    return text


def _generate(folder: Path, voices: list[Voice], seed: int) -> None:
    columns = TextColumn("speaking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    utterances: dict[int, list[Utterance]] = {}
    # One fresh process per block, as espeak-ng repeats itself only there; spawn, as a fork would inherit its state.
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(available_cores(), mp_context=spawn, max_tasks_per_child=1) as pool,
        Progress(*columns) as bar,
    ):
        task = bar.add_task("", total=BLOCKS)
        blocks = {pool.submit(_speak, folder, voices[block::BLOCKS], seed, block): block for block in range(BLOCKS)}
        try:
            for done in as_completed(blocks):
                utterances[blocks[done]] = done.result()
                bar.advance(task)
        except BrokenProcessPool:
            raise UserError(
                f"The generation of {folder} was killed from outside. Run it again: it starts from the beginning."
            ) from None
    write_manifest(folder / "utterances.csv", [utterance for block in range(BLOCKS) for utterance in utterances[block]])
    write_csv(
        folder / "speakers.csv",
        (dataclasses.asdict(v.speaker) | dataclasses.asdict(v.handset) | {"misreads": v.misreads} for v in voices),
    )


def _speak(folder: Path, voices: list[Voice], seed: int, block: int) -> list[Utterance]:
    """Speak and write the clips of these speakers; the utterances have paths relative to `folder`."""
    espeak = Espeak()
    rng = np.random.default_rng([seed, 3, block])
    utterances = []
    for voice in voices:
        speaker = voice.speaker
        (folder / "clips" / speaker.id).mkdir(parents=True)
        for number, (said, written) in enumerate(zip(voice.said, voice.written, strict=True)):
            speech = say(espeak, said, speaker)
            speech = in_room(speech, espeak.sample_rate, voice.handset.reverberation, rng)
            samples = through(record(speech, espeak.sample_rate, speaker, rng), voice.handset)
            utterances.append(write_clip(folder, f"{number:03d}", samples, written, speaker, LOCALE))
    return utterances


OPTION_HELP = {
    "speakers": "training speakers",
    "dev_speakers": "dev speakers",
    "test_speakers": "test speakers",
    "misreading": "share of the training speakers half of whose transcripts are wrong",
    "seed": "another seed, another corpus",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_generator(
        "asr_fed.data_prep.cv_shape",
        "Generate a synthetic corpus with Common Voice's shape.",
        prepare,
        OPTION_HELP,
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
