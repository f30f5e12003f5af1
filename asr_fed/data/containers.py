"""Whether a recording is complete: the end that its file states, compared with the file.

libsndfile reads a file that was cut without an error, and stops at the length in the header even if more follows. So
the containers are parsed here as far as needed: the chunks of RIFF, RF64, AIFF and CAF, the headers of AU, NIST SPHERE
and FLAC, the pages of Ogg (RFC 3533), the frames of MP3 (ISO 11172-3 and 13818-3, with the number of them in a Xing,
Info or VBRI frame).
"""

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

UNKNOWN_FROM = 0x7FFFF000  # sizes that sox, arecord and ffmpeg write into a pipe, where the length is unknown
SLACK = 0.1  # seconds that encoders of MP3, Vorbis and Opus add and decoders remove
MPEG_1 = 3  # the two version bits of an MP3 frame
KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
BEGINS, ENDS = 2, 4  # flags of an Ogg page
SPHERE_SIZES = (b"sample_count", b"channel_count", b"sample_n_bytes")


class Unfit(Exception):
    """The text that follows "The recording PATH " and says why it cannot be used; `defect` is its category."""

    def __init__(self, reason: str, defect: str = "broken file") -> None:
        super().__init__(reason)
        self.defect = defect


class Bytes(Protocol):
    """The common interface of bytes and of a file mapped into memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


@dataclass(frozen=True)
class Extent:
    """How many samples the decoder has to return, and a patch that makes it read to the end.

    `samples` (per channel) is None if libsndfile knows it, 0 if it is unknown; up to `slack` seconds of it may be
    missing. `patch` is a position in the file and the bytes that libsndfile has to read there.
    """

    samples: int | None = None
    patch: tuple[int, bytes] | None = None
    slack: float = 0.0


def find_extent(data: Bytes) -> Extent:
    """Raises Unfit if the file ends before or after the stated end, or if that cannot be determined."""
    start = _behind_id3(data, 0)
    magic = data[start : start + 4]
    if magic in (b"RIFF", b"RF64"):
        return _chunks(data, b"data", "<I", 12)
    if magic == b"RIFX":
        return _chunks(data, b"data", ">I", 12)
    if magic == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return _chunks(data, b"SSND", ">I", 12)
    if magic == b"caff":
        return _chunks(data, b"data", ">q", 8)
    if magic in (b".snd", b"dns."):
        offset, stated = struct.unpack(">II" if magic == b".snd" else "<II", data[4:12].ljust(8, b"\0"))
        return Extent() if stated == 0xFFFFFFFF else _same(stated, len(data) - offset, "bytes")
    if magic == b"NIST":
        return _sphere(data)
    if magic == b"fLaC":
        return _flac(data, start)
    if magic == b"OggS":
        return _ogg(data)
    if _frame(data[start : start + 3]):
        return _mp3(data, start)
    raise Unfit("cannot be decoded: it is none of WAV, FLAC, MP3, Ogg, AIFF, AU, CAF and SPHERE. Convert it.")


def _same(stated: int, there: int, unit: str) -> Extent:
    if there < stated:
        raise Unfit(f"breaks off: {there} of {stated} {unit} are there. Copy it again from where it is whole.")
    if there > stated:
        raise Unfit(
            f"goes on after its end: it states {stated} {unit}, and {there} are there. Convert it with a program that "
            "reads it to the end."
        )
    return Extent()


def _chunks(data: Bytes, wanted: bytes, size_format: str, first: int) -> Extent:
    """A file of chunks with name and size; after the chunk with the samples only chunks, tags or zeros may follow."""
    long_size = None  # of RF64
    for name, place, size in _walk_chunks(data, size_format, first):
        if name == b"ds64":
            [long_size] = struct.unpack("<Q", data[place + 8 : place + 16].ljust(8, b"\0"))
        if name != wanted:
            continue
        there = len(data) - place
        stated = long_size if long_size is not None and size == 0xFFFFFFFF else size
        ends_well = any(_ends_in_chunks(data, size_format, place + stated + pad) for pad in (0, stated % 2))
        if stated == 0 and there and not ends_well and wanted == b"data":
            return Extent(patch=(place - 4, b"\xff" * 4))  # libsndfile takes 0 for empty, this for unknown
        if stated == -1 or there < stated >= UNKNOWN_FROM or ends_well:
            return Extent()
        return _same(stated, there, "bytes")
    raise Unfit("breaks off before its first sample. Copy it again from where it is whole.")


def _walk_chunks(data: Bytes, size_format: str, first: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, position of the content and stated size of each chunk."""
    width, place = struct.calcsize(size_format), first
    while place + 4 + width <= len(data):
        name = data[place : place + 4]
        if not re.fullmatch(rb"[ -~]{4}", name):
            return
        [size] = struct.unpack(size_format, data[place + 4 : place + 4 + width])
        yield name, place + 4 + width, size
        place += 4 + width + max(size, 0)
        place += size % 2 if width == 4 else 0  # padded to an even number of bytes


def _ends_in_chunks(data: Bytes, size_format: str, place: int) -> bool:
    """Whether from here on there are only whole chunks, followed by tags or zeros; all of them may be absent."""
    for _, content, size in _walk_chunks(data, size_format, place):
        if _behind_tags(data, place) == len(data):
            return True
        place = content + size
    left = len(data) - place
    return 0 <= left < 8 or (left > 0 and _behind_tags(data, place) == len(data))


def _sphere(data: Bytes) -> Extent:
    """1,024 bytes (or what the second line says) of "name -type value" lines, then the samples."""
    try:
        header = data[: int(data[8:16])]
        sizes = [int(re.search(rb"\n%s -i (\d+)" % name, header)[1]) for name in SPHERE_SIZES]  # type: ignore[index]
    except (ValueError, TypeError):
        raise Unfit("has a NIST SPHERE header that does not state how long it is. Convert it to WAV.") from None
    count, channels, width = sizes
    return _same(count, (len(data) - len(header)) // (channels * width), "samples")


def _flac(data: Bytes, start: int) -> Extent:
    """The FLAC decoder stops at the stated number of samples; if none is stated, it reads to the end."""
    place = start + 21  # STREAMINFO: the low four bits here and the next four bytes are the number of samples
    field = int.from_bytes(data[place : place + 5], "big")
    stated = field % (1 << 36)
    return Extent(stated, (place, (field - stated).to_bytes(5, "big")) if stated else None)


def _ogg(data: Bytes) -> Extent:
    """One recording, from its first page to its last, with no page missing in between."""
    place, expected, ended = 0, dict[bytes, int](), dict[bytes, bool]()  # by serial number of the stream
    while data[place : place + 4] == b"OggS":
        header = data[place : place + 27].ljust(27, b"\0")
        flags, serial, number = header[5], header[14:18], int.from_bytes(header[18:22], "little")
        place += 27 + header[26] + sum(data[place + 27 : place + 27 + header[26]])
        if flags & BEGINS and any(ended.values()):
            raise Unfit("is several Ogg recordings one after another. Convert it to one, or to WAV or FLAC.")
        if number != expected.get(serial, number):
            raise Unfit(f"lacks pages: number {number} follows where {expected[serial]} should.")
        expected[serial], ended[serial] = number + 1, bool(flags & ENDS)
    if place > len(data) or not all(ended.values()):
        raise Unfit("breaks off: its last page is not there. Copy it again from where it is whole.")
    return Extent(slack=SLACK)


class _Frame(NamedTuple):
    """`kind` is the same for all frames of a recording."""

    kind: tuple[int, int]
    size: int
    samples: int


@functools.lru_cache(maxsize=1024)
def _frame(header: bytes) -> _Frame | None:
    """The MP3 frame that begins at these bytes, if there is one."""
    if len(header) < 3 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    kbps, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version not in RATES or layer != 1 or not 0 < kbps < 15 or rate == 3:
        return None
    samples = 1152 if version == MPEG_1 else 576
    bits = KBPS[version == MPEG_1][kbps - 1] * 1000
    return _Frame((version, rate), samples // 8 * bits // RATES[version][rate] + padding, samples)


def _mp3(data: Bytes, start: int) -> Extent:
    """The decoder trusts the number of frames in the first one, or estimates the length from its bit rate."""
    place, frames, whole = start, 0, True
    first = _frame(data[start : start + 3])
    assert first is not None
    while place < len(data):
        frame = _frame(data[place : place + 3])
        if frame is None or frame.kind != first.kind:
            place = max(_behind_tags(data, place), _next_frame(data, place + 1, first.kind))
        else:
            place += frame.size
            whole = place <= len(data)
            frames += whole
    stated = _stated_frames(data[start : start + first.size].ljust(first.size))
    if stated is None:
        if not whole:
            raise Unfit("breaks off within its last frame. Copy it again from where it is whole.")
        return Extent(frames * first.samples, slack=SLACK)
    version, rate = first.kind
    more = SLACK * RATES[version][rate] // first.samples  # frames by which encoders miscount
    if not (stated <= frames - 1 <= stated + more or (stated == frames and whole)):  # that frame counted, too
        _same(stated, frames - 1, "frames")
    return Extent(slack=SLACK)


def _stated_frames(frame: bytes) -> int | None:
    """The first frame can hold the number of frames that follow, instead of sound."""
    vbri = frame.find(b"VBRI", 36, 40)
    if vbri >= 0:
        return int.from_bytes(frame[vbri + 14 : vbri + 18], "big")
    for name in (b"Xing", b"Info"):
        place = frame.find(name, 0, 64)
        if place >= 0 and frame[place + 7] & 1:
            return int.from_bytes(frame[place + 8 : place + 12], "big") or None  # 0: never filled in
    return None


def _next_frame(data: Bytes, place: int, kind: tuple[int, int]) -> int:
    """Position of the next frame that is followed by another one or by the end; after the end if there is none."""
    while (place := data.find(b"\xff", place)) >= 0:
        frame = _frame(data[place : place + 3])
        if frame and frame.kind == kind:
            behind = place + frame.size
            if behind == len(data) or _frame(data[behind : behind + 3]):
                return place
        place += 1
    return len(data)


def _behind_id3(data: Bytes, place: int) -> int:
    """The position after the ID3v2 tags (https://id3.org/id3v2.4.0-structure) that begin here."""
    while data[place : place + 3] == b"ID3" and place + 10 <= len(data):
        flags, *sizes = data[place + 5 : place + 10]
        place += 10 + sum(size << 7 * power for power, size in enumerate(reversed(sizes)))
        place += 10 if flags & 0x10 else 0
    return place


def _behind_tags(data: Bytes, place: int) -> int:
    """The end of the file if only tags (ID3v1 and 2, APE, Lyrics3) or zeros follow."""
    rest = data[_behind_id3(data, place) : len(data)]
    if rest.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN")) or not rest.strip(b"\0"):
        return len(data)
    return place
