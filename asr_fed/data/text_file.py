"""Text files that people write: lists, tables, settings.

Editors and spreadsheets save them as UTF-8, with or without a byte order mark, or as UTF-16. All of these are read. A
file in an older encoding is refused, because the file does not show which one.
"""

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asr_fed.system.errors import UserError

CONVERT = "Save it as UTF-8, for instance: iconv -f latin1 -t utf-8 OLD > NEW"
SEPARATORS = {";": "semicolons", "\t": "tabs"}


def read_text(path: str | Path, *, errors: str = "strict") -> str:
    """The whole file, without its byte order mark and with "\\n" for every line's end.

    Args:
        errors: what becomes of bytes that cannot be decoded, as in `open`.

    Raises UserError where it cannot be read, or with errors="strict" decoded.
    """
    try:
        return Path(path).read_text(encoding=encoding_of(path), errors=errors)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeError as error:
        raise UserError(f"{path} is not UTF-8. {CONVERT}") from error


def read_lines(path: str | Path) -> list[str]:
    """The lines that are not empty, without white space around them. Raises UserError as `read_text` does."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_table(
    path: str | Path, needed: Sequence[str], *, comment: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (number of its last line, row by column name) for each row of a CSV file with a header.

    A line that begins with `comment` is no row.

    Raises UserError where the file cannot be read or decoded, lacks a column of `needed`, or has a row of more or
    fewer fields than the header.
    """
    path = Path(path)
    with path.open(encoding=encoding_of(path), newline="") as file:
        yield from parse_table(file, path, needed, comment)


def parse_table(
    lines: Iterable[str], path: Path, needed: Sequence[str], comment: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """As `read_table`, of lines that have been read from `path`."""
    reader = csv.reader(lines)
    columns: list[str] = []
    try:
        for fields in reader:
            if comment is not None and fields and fields[0].startswith(comment):
                continue
            if not columns:
                columns = [name.strip() for name in fields]
                check_columns(path, columns, needed)
            elif len(fields) == len(columns):
                yield reader.line_num, dict(zip(columns, fields, strict=True))
            elif fields:
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has {len(columns)}. "
                    'A field that holds a comma stands in quotation marks: "..."'
                )
    except UnicodeError as error:
        raise UserError(f"{path} is not UTF-8 (line {reader.line_num + 1} or later). {CONVERT}") from error
    except csv.Error as error:
        raise UserError(f"{path}, after line {reader.line_num}: the table cannot be read ({error}).") from error
    if not columns:
        raise UserError(f"{path} is empty; needed are the columns {', '.join(needed)}.")


def encoding_of(path: str | Path) -> str:
    """The Unicode encoding that the first bytes show; UTF-8 if they show none.

    Raises UserError if the file cannot be opened, or is UTF-16 without a byte order mark.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        raise UserError(f"{path} looks like UTF-16 without a byte order mark. Save it as UTF-8.")
    return "utf-8-sig"


def check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Raises UserError where a column is missing, or two have one name."""
    missing = [name for name in needed if name not in columns]
    if missing:
        shown = ", ".join(name.encode("utf-8", "replace").decode()[:40] for name in columns[:15])
        raise UserError(
            f"{path}: column(s) {', '.join(missing)} missing. Found: {shown}. Needed: {', '.join(needed)}."
            + _other_separator(columns)
        )
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column(s) {', '.join(repeated)} occur twice.")


def _other_separator(columns: Sequence[str]) -> str:
    names = [name for separator, name in SEPARATORS.items() if len(columns) == 1 and separator in columns[0]]
    return f" Its fields are separated by {names[0]}, not by commas: save it again with commas." if names else ""
