"""Whatever the format: a file that was cut, or that goes on, is told apart from a whole one."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_fed.data.audio import BadRecording, read_audio

RATE = 16000
SAMPLES = 40_000
FORMATS = [
    *(("WAV", subtype) for subtype in ("PCM_16", "FLOAT", "ULAW", "IMA_ADPCM")),
    *(("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16")),
    *(("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
]
TAG = b"TAG" + b"of version 1".ljust(125)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bytes]:
    """The same noise in each format."""
    noise = 0.1 * np.random.default_rng(3).standard_normal(SAMPLES)
    path = tmp_path_factory.mktemp("formats") / "a"
    contents = {}
    for kind, subtype in FORMATS:
        soundfile.write(path, noise, RATE, format=kind, subtype=subtype)
        contents[kind, subtype] = path.read_bytes()
    return contents


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a"


def samples_of(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return len(read_audio(path, RATE))


@pytest.mark.parametrize("kind", FORMATS, ids="-".join)
def test_a_whole_file_is_read(path: Path, recordings: dict, kind: tuple[str, str]) -> None:
    assert samples_of(path, recordings[kind]) == pytest.approx(SAMPLES, abs=1000)  # ADPCM has blocks


@pytest.mark.parametrize("kind", FORMATS, ids="-".join)
def test_a_file_cut_anywhere_is_refused(path: Path, recordings: dict, kind: tuple[str, str]) -> None:
    content = recordings[kind]
    rng = random.Random(5)
    places = [1, 3, 20, 50, len(content) // 2, len(content) * 9 // 10, len(content) - 1]
    for place in places + [rng.randrange(1, len(content)) for _ in range(20)]:
        path.write_bytes(content[:place])
        with pytest.raises(BadRecording, match=r"The recording .*/a "):
            read_audio(path, RATE)


@pytest.mark.parametrize("kind", FORMATS, ids="-".join)
def test_a_file_with_another_one_behind_it_is_refused(path: Path, recordings: dict, kind: tuple[str, str]) -> None:
    path.write_bytes(2 * recordings[kind])
    with pytest.raises(BadRecording, match=r"The recording .*/a "):
        read_audio(path, RATE)


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")], ids="-".join)
def test_a_tag_before_the_sound_does_not_count(path: Path, recordings: dict, kind: tuple[str, str]) -> None:
    tag = b"ID3\4\0\0\0\0\2\1" + bytes(257)
    assert samples_of(path, tag + recordings[kind]) == SAMPLES


def wav(size: int, sound: bytes, riff: int | None = None, behind: bytes = b"") -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    content = b"WAVE" + form + struct.pack("<4sI", b"data", size) + sound + behind
    return struct.pack("<4sI", b"RIFF", len(content) if riff is None else riff) + content


SOUND = np.arange(1, 8001, dtype="<i2").tobytes()


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(path: Path, size: int, riff: int | None) -> None:
    assert samples_of(path, wav(size, SOUND, riff)) == 8000


def test_a_wav_may_have_other_chunks_and_tags_behind_its_sound(path: Path) -> None:
    chunk = struct.pack("<4sI", b"LIST", 10) + b"INFOISFT\0\0"
    for behind in (chunk, 2 * chunk, chunk + TAG, TAG, bytes(500), b"\0", b"id3 " + struct.pack("<I", 5) + b"abcde"):
        assert samples_of(path, wav(len(SOUND), SOUND, behind=behind)) == 8000
    for missing_pad in (b"", b"\0"):
        assert samples_of(path, wav(len(SOUND) - 1, SOUND[:-1] + missing_pad, behind=chunk)) == 7999


def test_a_wav_that_goes_on_where_it_says_that_it_ends_is_refused(path: Path) -> None:
    """What a recorder leaves that was killed between two updates of its header."""
    path.write_bytes(wav(6000, SOUND))
    with pytest.raises(BadRecording, match=r"goes on after its end: it states 6000 bytes, and 16000 are there"):
        read_audio(path, RATE)


def mp3(path: Path, seconds: int, mode: str) -> bytes:
    """Little and then much to encode."""
    noise = np.random.default_rng(3).standard_normal(seconds * RATE)
    noise *= np.where(np.arange(len(noise)) < len(noise) // 2, 0.001, 0.3)
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode=mode, compression_level=0.3) as file:
        file.write(noise)
    return path.read_bytes()


def without_length(content: bytes) -> bytes:
    """The first frame states it, and has no sound."""
    return content[content.index(b"\xff\xf3", 4) :]


def test_an_mp3_of_constant_rate_need_not_state_its_length(path: Path) -> None:
    content = without_length(mp3(path, 3, "CONSTANT"))
    assert samples_of(path, content) == pytest.approx(3 * RATE, abs=1600)
    assert samples_of(path, content + TAG) == pytest.approx(3 * RATE, abs=1600)
    path.write_bytes(content[:-100])
    with pytest.raises(BadRecording, match="breaks off within its last frame"):
        read_audio(path, RATE)


def test_an_mp3_may_state_its_length_a_little_wrong(path: Path) -> None:
    content = mp3(path, 3, "CONSTANT")
    place = content.index(b"Info") + 8
    [stated] = struct.unpack(">I", content[place : place + 4])
    for wrong in (stated - 1, stated + 1, 0):
        assert samples_of(path, content[:place] + struct.pack(">I", wrong) + content[place + 4 :]) > 2.9 * RATE
    for wrong in (stated - 10, stated + 2):
        path.write_bytes(content[:place] + struct.pack(">I", wrong) + content[place + 4 :])
        with pytest.raises(BadRecording, match=rf"{wrong} frames"):
            read_audio(path, RATE)


def test_an_mp3_of_varying_rate_has_to(path: Path) -> None:
    """libsndfile guesses the length from the first frame, and would read a third of it."""
    content = mp3(path, 3, "VARIABLE")
    assert samples_of(path, content + TAG) == 3 * RATE
    path.write_bytes(without_length(content))
    with pytest.raises(BadRecording, match=r"should have 3\.\d+ s, and 1\.\d+ s can be read"):
        read_audio(path, RATE)


def test_an_ogg_file_that_lacks_a_page_is_refused(path: Path, recordings: dict) -> None:
    content = recordings["OGG", "VORBIS"]
    pages = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    path.write_bytes(content[: pages[2]] + content[pages[3] :])
    with pytest.raises(BadRecording, match="lacks pages: number 3 follows where 2 should"):
        read_audio(path, RATE)


def test_other_formats_are_refused_by_name(path: Path) -> None:
    soundfile.write(path, np.zeros(1000), RATE, format="VOC", subtype="PCM_16")
    with pytest.raises(BadRecording, match="cannot be decoded: it is none of WAV, FLAC"):
        read_audio(path, RATE)
