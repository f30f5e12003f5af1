"""Flower's records, written and read; everything that comes from outside is checked before it is used.

Names, types, shapes, sizes and ranges are checked. Arrays are read without unpickling anything.
"""

import io
import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from asr_fed.data.identity import identity
from asr_fed.wire.messages import Refused

LONGEST_TEXT = 300  # characters of a text from outside that are kept
HEADER = 256  # bytes that numpy's own header of an array may take


def record_bytes(message: Message) -> int:
    """Bytes of the arrays that a message carries."""
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())


def pack_vectors(vectors: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: pack_vector(vector) for name, vector in vectors.items()})


def pack_vector(vector: np.ndarray) -> Array:
    """Flower's `Array(vector)`, byte for byte, but with one copy of the numbers instead of three."""
    header = io.BytesIO()
    vector = np.ascontiguousarray(vector)
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vector))
    data = b"".join([header.getvalue(), vector.data.cast("B")])
    return Array(str(vector.dtype), tuple(vector.shape), "numpy.ndarray", data)


def read_vectors(
    record: ArrayRecord,
    dtype: type,
    lengths: Mapping[str, int | None],
    dtypes: Mapping[str, type] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """The arrays of these names, and no others, as read-only views; a length of None is any. Raises Refused.

    dtype: of those that `dtypes` does not name.
    """
    if set(record) != set(lengths):
        raise Refused(f"arrays {sorted(record)} in place of {sorted(lengths)}")
    return {name: _vector(record[name], dtypes.get(name, dtype), length) for name, length in lengths.items()}


def _vector(array: Array, dtype: type, length: int | None) -> np.ndarray:
    """A one-dimensional array, as a read-only view of the record's bytes."""
    if array.stype != "numpy.ndarray":
        raise Refused(f"an array of kind {array.stype:.40}")
    try:
        header = io.BytesIO(array.data[: 4 * HEADER])
        if np.lib.format.read_magic(header) != (1, 0):
            raise Refused("an array of another format")
        shape, _, found = np.lib.format.read_array_header_1_0(header)
    except Refused:
        raise
    except Exception as error:  # a forged header can fail in many ways
        raise Refused("an array that cannot be read") from error
    if found != np.dtype(dtype) or len(shape) != 1:
        raise Refused(f"an array {found}{shape} in place of {np.dtype(dtype)} numbers")
    if length is not None and shape[0] != length:
        raise Refused(f"{shape[0]} numbers for a state of {length}")
    if header.tell() > HEADER or len(array.data) - header.tell() != shape[0] * np.dtype(dtype).itemsize:
        raise Refused(f"{len(array.data)} bytes for {shape[0]} numbers")
    return np.frombuffer(array.data, dtype, offset=header.tell())


def named_record(message: Message, name: str, kind: type) -> Any:
    """The record of that name and kind. Raises Refused."""
    if not message.has_content() or name not in message.content:
        raise Refused(f"no record {name}")
    record = message.content[name]
    if not isinstance(record, kind):
        raise Refused(f"a record {name} of another kind")
    return record


def read_columns(record: Any, names: tuple[str, ...], refusal: str) -> list[list[Any]]:
    """Lists of equal length, by name. Raises Refused, with `refusal`."""
    columns = [record.get(name) for name in names]
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        raise Refused(refusal)
    return columns


def only_records(message: Message, names: Collection[str]) -> None:
    """Raises Refused where a message holds records of other names."""
    if message.has_content() and (more := sorted(set(message.content) - set(names))):
        raise Refused(f"a record {more[0]!r:.80} that does not belong there")


def told(text: object, longest: int = LONGEST_TEXT) -> str:
    """A text from outside, before it reaches a terminal, a log or a page: cut, and without what these would act on."""
    return readable(str(text)[:longest])


def readable(text: str) -> str:
    """The text without control characters, which a terminal would act on."""
    return "".join(character if character.isprintable() else " " for character in text)


def is_id(text: object) -> bool:
    """Whether it may be the id of a client. It ends in CSV files: no spreadsheet takes it for a formula."""
    if not isinstance(text, str) or not 0 < len(text) <= 200 or not text.isprintable() or identity(text) != text:
        return False
    return text[0] not in "=+-@"


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_amount(value: object) -> bool:
    return is_number(value) and value >= 0  # type: ignore[operator]
