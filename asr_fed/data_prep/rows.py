"""Rows of CSV/TSV files of real corpora: any Unicode encoding; broken lines are reported."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_fed.data.text_file import CONVERT, check_columns, encoding_of
from asr_fed.system.errors import UserError

BAD_ENCODING = "row that is not UTF-8"
BAD_FIELDS = "malformed row"
NO_TRANSCRIPT = "no transcript"


def read_rows(
    path: Path,
    needed: Sequence[str],
    bad: dict[str, list[str]],
    *,
    delimiter: str = "\t",
    quoted: bool = False,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row by column name) for each good row of a table with a header.

    UTF-8 (with or without a byte order mark) and UTF-16/32 with one are read. Rows that do not decode or
    have too few or too many fields are appended to `bad` as {reason: ["file:line", ...]}. Without
    `quoted`, quotation marks are ordinary characters and each line is a row.

    Raises UserError where the file is missing, is in another encoding altogether, or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"There is no table at {path}.")
    readable = unreadable = 0  # rows with non-ASCII bytes that could be decoded, and that could not
    # surrogateescape keeps undecodable bytes recognisable, so that one bad row does not end the reading
    newline = "" if quoted else "\n"
    with path.open(encoding=encoding_of(path), errors="surrogateescape", newline=newline) as file:
        reader = csv.reader(file, delimiter=delimiter) if quoted else None
        rows = reader or (line.rstrip("\r\n").split(delimiter) for line in file)
        columns: list[str] = []
        last = 0
        try:
            for number, fields in enumerate(rows, start=1):
                first, last = last + 1, reader.line_num if reader else number
                joined = "".join(fields)
                if not columns:
                    columns = [name.strip() for name in fields]
                    check_columns(path, columns, needed)
                elif not joined.strip():
                    continue
                elif any("\udc80" <= char <= "\udcff" for char in joined):
                    unreadable += 1
                    bad.setdefault(BAD_ENCODING, []).append(f"{path.name}:{first}")
                # a line break inside a field is nearly always due to a quotation mark that was not closed
                elif len(fields) != len(columns) or "\n" in joined:
                    lines = [f"{path.name}:{line}" for line in range(first, last + 1)]
                    bad.setdefault(BAD_FIELDS, []).extend(lines)
                else:
                    readable += not joined.isascii()
                    yield first, dict(zip(columns, fields, strict=True))
        except (csv.Error, UnicodeError) as error:
            raise UserError(f"{path}, after line {last}: the table cannot be read ({error}).") from error
    if not columns:
        raise UserError(f"{path} is empty; needed are the columns {', '.join(needed)}.")
    if unreadable >= 10 and not readable:
        raise UserError(f"{path} is not UTF-8: none of its {unreadable} rows beyond ASCII can be decoded. {CONVERT}")
