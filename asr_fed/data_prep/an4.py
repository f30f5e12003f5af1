"""CMU AN4 as distributed by CMU: an4_sphere.tar.gz or an4_raw.bigendian.tar.gz, unpacked.

    python -m asr_fed.data_prep.an4 /corpora/an4 prepared/an4_cmu/manifest.csv

    an4/etc/an4_train.fileids          an4_clstk/fash/an251-fash-b: recordings below wav/, without suffix
            an4_train.transcription    <s> YES </s> (an251-fash-b)
            an4_test.fileids, an4_test.transcription
    an4/wav/an4_clstk/fash/an251-fash-b.sph, or .raw: 16 kHz, 16 bits, big-endian, without a header

Test is CMU's own. Every ninth of its training speakers, in the order of their names, is dev.
"""

import argparse
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import soundfile

from asr_fed.data.audio import open_recording
from asr_fed.data.manifest import Utterance
from asr_fed.data.recordings import recordings_below
from asr_fed.data.text_file import read_text
from asr_fed.data_prep.command import run_command
from asr_fed.data_prep.prepare import Clip, Options, write_corpus
from asr_fed.data_prep.rows import BAD_FIELDS, NO_TRANSCRIPT
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing

DEV_EVERY = 9
SUFFIXES = (".raw", ".sph")
GENDERS = {"f": "female", "m": "male"}  # by the first letter of a speaker's name
RAW = {"samplerate": 16000, "channels": 1, "format": "RAW", "subtype": "PCM_16", "endian": "BIG"}
RECORDING = re.compile(r"(?:[\w-]+/)+(?P<speaker>[\w-]+)/(?P<id>[\w-]+)")
TRANSCRIPT = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<id>[\w-]+)\)")


def prepare(root: str, manifest: str, **options: Unpack[Options]) -> list[Utterance]:
    """Prepare the corpus at `root`, the folder an4/ or its parent.

    For .raw recordings FLAC copies are made in clips/ beside the manifest, because a .raw file does not state its
    format. For `options` see `write_corpus`. Raises UserError if lists or transcripts are missing, or if a .raw file
    has a header after all and cannot be read whole.
    """
    corpus = next((path for path in (Path(root), Path(root) / "an4") if (path / "etc").is_dir()), None)
    if corpus is None:
        raise UserError(f"{root} is not AN4 as CMU distributes it: it holds neither etc/ nor an4/etc/.")
    bad: dict[str, list[str]] = {}
    clips = [clip for split in ("train", "test") for clip in _clips(corpus, split, bad)]
    listed = {*(clip.id for clip in clips), *bad.get(NO_TRANSCRIPT, ())}
    there = [path.stem for path in recordings_below(corpus / "wav", SUFFIXES)]
    if unlisted := [name for name in there if name not in listed]:
        bad.setdefault(NO_TRANSCRIPT, []).extend(unlisted)
    training = sorted({clip.speaker for clip in clips if clip.split == "train"})
    dev = set(training[::DEV_EVERY])
    clips = [replace(clip, split="dev") if clip.speaker in dev else clip for clip in clips]
    folder = corpus / "wav"
    if any(clip.path.endswith(".raw") for clip in clips):
        copies = Path(manifest).parent / "clips"
        clips, folder = [_with_header(clip, folder, copies) for clip in clips], copies
    return write_corpus(clips, folder, manifest, language="en", bad_rows=bad, **options)


def _clips(corpus: Path, split: str, bad: dict[str, list[str]]) -> Iterator[Clip]:
    """The recordings of `split`, with their transcripts, which are found by name."""
    texts = {}
    transcripts = corpus / "etc" / f"an4_{split}.transcription"
    for number, line in _lines(transcripts):
        if match := TRANSCRIPT.fullmatch(line):
            texts[match["id"]] = match["text"]
        else:
            bad.setdefault(BAD_FIELDS, []).append(f"{transcripts.name}:{number}")
    recordings = corpus / "etc" / f"an4_{split}.fileids"
    for number, line in _lines(recordings):
        match = RECORDING.fullmatch(line)
        if match is None:
            bad.setdefault(BAD_FIELDS, []).append(f"{recordings.name}:{number}")
        elif match["id"] not in texts:
            bad.setdefault(NO_TRANSCRIPT, []).append(match["id"])
        else:
            suffix = ".raw" if (corpus / "wav" / f"{line}.raw").is_file() else ".sph"
            speaker = match["speaker"]
            yield Clip(
                id=match["id"],
                path=line + suffix,
                speaker=speaker,
                sentence=texts[match["id"]],
                locale="en",
                gender=GENDERS.get(speaker[0], ""),
                split=split,
            )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise UserError(f"{path} is not there. Unpack the whole of an4_sphere.tar.gz or an4_raw.bigendian.tar.gz.")
    for number, line in enumerate(read_text(path, errors="replace").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _with_header(clip: Clip, folder: Path, copies: Path) -> Clip:
    """The clip as a FLAC file in `copies`, which is made if it does not exist; a missing recording stays missing."""
    source, copy = folder / clip.path, copies / f"{clip.id}.flac"
    if source.is_file() and not (copy.is_file() and copy.stat().st_mtime_ns >= source.stat().st_mtime_ns):
        copies.mkdir(parents=True, exist_ok=True)
        if source.suffix != ".raw":  # has a header
            with open_recording(source) as recording:
                deque(recording.blocks(), maxlen=0)
        samples, rate = soundfile.read(source, dtype="int16", **(RAW if source.suffix == ".raw" else {}))
        with replacing(copy) as temporary:
            soundfile.write(temporary, samples, rate, format="FLAC")
    return replace(clip, path=copy.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser("python -m asr_fed.data_prep.an4", description="Prepare CMU AN4.")
    parser.add_argument("root", help="the folder an4/, or its parent")
    parser.add_argument("manifest", help="the manifest.csv to write")
    return run_command(parser, prepare, argv)


if __name__ == "__main__":
    sys.exit(main())
