"""Sums of whole numbers in as few bytes as they need, without loss.

A sum is cut into blocks of BLOCK entries. In each block all entries are whole multiples of some power of two, and fit
in some number of bytes once they are divided by it. A block in which most entries are 0 lists the others.

The bytes: a head of each block (HEAD), then one chunk of blocks after another, and in each, for each width from the
smallest, the entries of the blocks that are written whole, then those of the blocks that list theirs: places first,
entries behind.
"""

import numpy as np

from asr_fed.wire.messages import Refused

CHUNK = 1 << 9  # blocks handled at a time, so that they stay in the processor's cache: 1 MB
BLOCK = 256  # so that a place is a byte; the heads are 4 bytes for each
# Bytes of an entry; the power of two that entries are multiples of; how many are listed, WHOLE where all are written.
HEAD = np.dtype([("width", "u1"), ("shift", "u1"), ("listed", "<u2")])
WHOLE = 0xFFFF
PLACE = np.dtype("u1")
WIDTHS = range(1, 9)


def pack_whole(values: np.ndarray) -> np.ndarray:
    """int64 [length] as uint8 [bytes]."""
    step = CHUNK * BLOCK
    packed = [_pack(_blocks(values[start : start + step])) for start in range(0, len(values), step)]
    return np.frombuffer(b"".join([heads for heads, _ in packed] + [entries for _, entries in packed]), np.uint8)


def unpack_whole(packed: np.ndarray, length: int) -> np.ndarray:
    """int64 [length] from uint8 [bytes]. Raises Refused where they are no sum of that length."""
    count = -(-length // BLOCK)
    if len(packed) < count * HEAD.itemsize:
        raise Refused(f"{len(packed)} bytes for a sum of {length} numbers")
    heads = packed[: count * HEAD.itemsize].view(HEAD)
    width, listed = heads["width"], heads["listed"].astype(np.int64)
    whole = listed == WHOLE
    if (width > WIDTHS[-1]).any() or (heads["shift"] > 63).any() or (listed[~whole] > BLOCK).any():
        raise Refused("a packed sum with a head that cannot be")
    sizes = np.where(whole, BLOCK * width.astype(np.int64), listed * (width + PLACE.itemsize * (width > 0)))
    if len(packed) - heads.nbytes != sizes.sum():
        raise Refused(f"{len(packed)} bytes for a sum of {length} numbers")
    values, at = np.empty((count, BLOCK), np.int64), heads.nbytes
    for start in range(0, count, CHUNK):
        chunk = slice(start, start + CHUNK)
        size = int(sizes[chunk].sum())
        values[chunk] = _unpack(heads[chunk], packed[at : at + size])
        at += size
    return values.reshape(-1)[:length]


def _pack(blocks: np.ndarray) -> tuple[bytes, bytes]:
    """The heads of a chunk, and its entries."""
    heads = np.zeros(len(blocks), HEAD)
    heads["shift"], heads["width"] = _shifts_and_widths(blocks)
    blocks = blocks >> heads["shift"][:, None].astype(np.int64)
    width = heads["width"].astype(np.int64)
    listed = np.count_nonzero(blocks, axis=1)
    whole = listed * (width + PLACE.itemsize) >= BLOCK * width
    heads["listed"] = np.where(whole, WHOLE, listed)
    parts = []
    for each in WIDTHS:
        parts.append(_narrow(blocks[whole & (width == each)], each))
        few = blocks[~whole & (width == each)]
        rows, places = np.nonzero(few)
        parts += [places.astype(PLACE).tobytes(), _narrow(few[rows, places], each)]
    return heads.tobytes(), b"".join(parts)


def _unpack(heads: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """The blocks of a chunk: int64 [blocks, BLOCK]. Raises Refused where they leave 64 bits."""
    width, listed = heads["width"], heads["listed"].astype(np.int64)
    whole = listed == WHOLE
    blocks = np.zeros((len(heads), BLOCK), np.int64)
    at = 0

    def take(size: int) -> np.ndarray:
        nonlocal at
        at += size
        return packed[at - size : at]

    for each in WIDTHS:
        full = np.flatnonzero(whole & (width == each))
        blocks[full] = _widen(take(len(full) * BLOCK * each), each).reshape(-1, BLOCK)
        few = np.flatnonzero(~whole & (width == each))
        rows = np.repeat(few, listed[few])
        places = take(len(rows) * PLACE.itemsize).view(PLACE)
        blocks[rows, places] = _widen(take(len(rows) * each), each)
    shifts = heads["shift"][:, None].astype(np.int64)
    shifted = blocks << shifts
    if not np.array_equal(shifted >> shifts, blocks):
        raise Refused("a packed sum beyond 64 bits")
    return shifted


def _blocks(values: np.ndarray) -> np.ndarray:
    count = -(-len(values) // BLOCK)
    if len(values) == count * BLOCK:
        return values.reshape(count, BLOCK)
    padded = np.zeros(count * BLOCK, np.int64)
    padded[: len(values)] = values
    return padded.reshape(count, BLOCK)


def _shifts_and_widths(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each block the number of low bits that are 0 in all its entries, and the bytes of the largest without them."""
    together = np.bitwise_or.reduce(blocks, axis=1)
    lowest = together & -together  # a power of two, or 0 where all is
    shift = np.where(together == 0, 0, np.log2(np.abs(lowest.astype(np.float64)).clip(1)).astype(np.int64))
    least, most = blocks.min(axis=1) >> shift, blocks.max(axis=1) >> shift
    width = np.zeros(len(blocks), np.int64)
    for each in WIDTHS:  # a number fits in as many bytes as leave only its sign beyond them
        bits = 8 * each - 1
        width[(least >> bits < -1) | (most >> bits > 0)] = each
    return shift, np.where(together == 0, 0, width + 1)


def _narrow(entries: np.ndarray, width: int) -> bytes:
    """The low `width` bytes of each entry."""
    return np.ascontiguousarray(entries, "<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def _widen(packed: np.ndarray, width: int) -> np.ndarray:
    """int64 from entries of `width` bytes, with their sign."""
    padded = np.zeros((len(packed) // width, 8), np.uint8)
    padded[:, 8 - width :] = packed.reshape(-1, width)
    return padded.reshape(-1).view("<i8").astype(np.int64) >> (8 * (8 - width))
